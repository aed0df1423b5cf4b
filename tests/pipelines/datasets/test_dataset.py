"""Data that a person has to put right: each case is one line that says what, where, and what to do."""

import re
import tracemalloc
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from pipelines import DataError, Dataset, EvalPlan, TrainPlan, build_loader, open_dataset, sample_path
from pipelines.datasets.image_headers import Flag
from pipelines.preparing.beton_writer import write_beton

CASES = {
    "no directory": ({}, "train", "data directory .*/data does not exist"),
    "no split": ({"vall/a/1.jpg": "plain"}, "val", r"no 'val' split in .*expected val/<class>.* \(nearest: vall\)"),
    "an empty split": ({"train/notes.txt": "text"}, "train", "holds no class folders and no tar shards"),
    "an empty class": (
        {"train/a/1.jpg": "plain", "train/b/x.txt": "text"},
        "train",
        "class folder .*/b holds no images",
    ),
    "two layouts": ({"train/a/1.jpg": "plain", "train-0.tar": "text"}, "train", "'train' split more than once"),
    "no tar": ({"train-0.tar": "text"}, "train", "train-0.tar is damaged or no tar file"),
    "an empty tar": ({"train-0.tar": "zeros"}, "train", "train-0.tar holds no images"),
    "a misspelt split": ({"train/a/1.jpg": "plain"}, "trian", r"unknown split 'trian' \(nearest: train\)"),
}


@pytest.mark.parametrize(("files", "split", "message"), CASES.values(), ids=CASES.keys())
def test_a_dataset_that_makes_no_sense_is_one_clear_line(
    make_folder, tmp_path, odd_images, bad_images, files, split, message
):
    content = {**odd_images, **bad_images, "zeros": bytes(10240)}
    make_folder({path: content[kind] for path, kind in files.items()})
    with pytest.raises(DataError, match=message) as raised:
        open_dataset(tmp_path / "data", split, progress=False)
    assert "\n" not in str(raised.value)


def test_classes_that_training_does_not_know_are_named(make_folder, odd_images):
    path = make_folder({"train/cat/1.jpg": odd_images["plain"], "val/cats/1.jpg": odd_images["plain"]})
    train = open_dataset(path, "train", progress=False)
    with pytest.raises(
        DataError, match=r"\(val\) holds class 'cats', which is not among the 1 expected .*nearest: cat\)"
    ):
        open_dataset(path, "val", classes=train.classes, progress=False)


def test_a_validation_split_may_lack_classes_and_keeps_their_numbers(make_folder, odd_images):
    path = make_folder({"val/dog/1.jpg": odd_images["plain"]})
    dataset = open_dataset(path, "val", classes=("cat", "dog"), progress=False)
    assert dataset.labels([0]).tolist() == [1]


def test_folders_are_sorted_by_their_text_as_imagefolder_does(make_folder, odd_images):
    path = make_folder({f"train/{number}/1.jpg": odd_images["plain"] for number in (10, 9, 1)})
    ours = open_dataset(path, "train", progress=False)
    theirs = ImageFolder(path / "train")
    assert ours.classes == tuple(theirs.classes) == ("1", "10", "9")
    assert ours.labels(range(3)).tolist() == theirs.targets


def test_a_quarantine_file_names_samples_that_exist(make_folder, odd_images):
    path = make_folder(
        {"train/a/photo.jpg": odd_images["plain"], "bad.txt": b"a/foto.jpg\n", "all.txt": b"a/photo.jpg\n"}
    )
    with pytest.raises(DataError, match=r"bad.txt, line 1: no sample 'a/foto.jpg' .*\(nearest: a/photo.jpg\)"):
        open_dataset(path, "train", quarantine=path / "bad.txt", progress=False)
    with pytest.raises(DataError, match="leaves out every sample"):
        open_dataset(path, "train", quarantine=path / "all.txt", progress=False)
    with pytest.raises(DataError, match=r"quarantine file .*none.txt cannot be read: No such file"):
        open_dataset(path, "train", quarantine=path / "none.txt", progress=False)


def test_a_quarantined_name_may_hold_all_but_a_line_feed(make_folder, odd_images):
    odd = "a\u2028b\x85c\rd.jpg"
    path = make_folder({f"train/a/{name}": odd_images["plain"] for name in (odd, "plain.jpg")})
    (path / "bad.txt").write_bytes(f"# odd\r\na/{odd}\r\n".encode())
    dataset = open_dataset(path, "train", quarantine=path / "bad.txt", progress=False)
    assert [dataset.short_name(at) for at in range(len(dataset))] == ["a/plain.jpg"]


def test_one_quarantine_file_serves_both_splits(make_folder, odd_images):
    files = {f"{split}/a/{number}.jpg": odd_images["plain"] for split in ("train", "val") for number in range(4)}
    lines = b"# train\na/1.jpg\ntrain/a/2.jpg\nval/a/3.jpg\n"
    path = make_folder(files | {"bad.txt": lines})
    train = open_dataset(path, "train", quarantine=path / "bad.txt", progress=False)
    val = open_dataset(path, "val", quarantine=path / "bad.txt", shared=True, progress=False)
    assert [[data.short_name(index) for index in range(len(data))] for data in (train, val)] == [
        ["a/0.jpg", "a/3.jpg"],
        ["a/0.jpg", "a/1.jpg", "a/2.jpg"],
    ]
    assert (train.quarantined, val.quarantined) == (2, 1)
    (path / "bad.txt").write_text("val/a/9.jpg\n")
    with pytest.raises(DataError, match=r"bad.txt, line 1: no sample 'a/9.jpg'"):
        open_dataset(path, "val", quarantine=path / "bad.txt", shared=True, progress=False)


@pytest.mark.parametrize("backend", ["native", "dali", "ffcv"])
def test_every_backend_evaluates_without_what_is_in_quarantine(sample_val, tmp_path, backend):
    home = Path(sample_path())
    if backend == "ffcv":
        write_beton(partial(open_dataset, home, "val", progress=False), tmp_path / "val.beton")
        home = tmp_path
    left_out = [0, 17, 999]
    whole = open_dataset(home, "val", progress=False)
    (tmp_path / "bad.txt").write_text("".join(f"{whole.short_name(index)}\n" for index in left_out))
    dataset = open_dataset(home, "val", quarantine=tmp_path / "bad.txt", shared=True, progress=False)
    with build_loader(dataset, EvalPlan(997, 100), backend, batch_size=100, resolution=32) as loader:
        batches = list(loader)
    assert sum(len(batch) for batch in batches) == 997
    kept = np.delete(np.arange(1000), left_out)
    assert [label for batch in batches for label in batch.labels.tolist()] == whole.labels(kept).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "nativ"}, "unknown backend 'nativ' (nearest: native); choose from auto, native, dali, ffcv"),
        ({"on_error": "ignore"}, "on_error must be one of raise, skip, not 'ignore'"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"resolution": 0}, "resolution must be at least 1, not 0"),
        ({"workers": -1}, "workers must be at least 0, not -1"),
        ({"prefetch": 0}, "prefetch must be at least 1, not 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not among 2 ranks"),
        ({"world_size": 65}, "the global batch of 64 is smaller than the 65 ranks; raise it"),
        ({"plan": EvalPlan(999, 64)}, "the plan is made for 999 samples, but"),
    ],
)
def test_a_loader_that_makes_no_sense_is_one_clear_line(sample_val, options, message):
    arguments = {"plan": TrainPlan(1000, 64), "backend": "native", "batch_size": 8, "resolution": 32} | options
    with pytest.raises(DataError, match=re.escape(message)):
        build_loader(sample_val, **arguments)


def test_the_embedded_dataset_has_ten_balanced_classes_and_is_small(sample_train, sample_val):
    assert sample_train.classes == sample_val.classes
    assert len(sample_train.classes) == 10
    for dataset, each in ((sample_train, 400), (sample_val, 100)):
        labels = dataset.labels(range(len(dataset))).tolist()
        assert [labels.count(label) for label in range(10)] == [each] * 10
        assert not len(dataset.unreadable())
    assert sum(file.stat().st_size for file in Path(sample_path()).iterdir() if file.is_file()) < 8_000_000


def test_planes_are_counted_without_a_copy_of_the_index():
    flags = np.zeros(2_000_000, np.uint16)
    flags[5:1_500_000:3] = Flag.NOT_JPEG | Flag.PLANES | 1 << 8
    flags[::1000] |= int(Flag.UNREADABLE)
    dataset = Dataset.__new__(Dataset)
    dataset._index = SimpleNamespace(entries={"flags": flags})  # type: ignore[assignment]
    dataset._excluded = np.array([0, 4, 5, 6, 1_999_999])  # unreadable, an image, planes, two images
    tracemalloc.start()
    planes, images = dataset.planes_and_images()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kinds = np.delete(flags, dataset._excluded) & int(Flag.PLANES | Flag.UNREADABLE)
    assert (planes, images) == ((kinds == Flag.PLANES).sum(), (kinds == 0).sum())
    assert peak < flags.nbytes / 4
