"""`prepare --store planes`: the same pixels as from the JPEGs, whatever is asked of the loader; the same bytes whoever wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import DataError, EvalPlan, TrainPlan, build_loader, open_dataset
from pipelines.checking.image_check import Condition, examine
from pipelines.prepare import main


def prepare(data: Path, output: Path, *options: str, workers: int = 1) -> Path:
    assert main(["folder", str(data), "--output", str(output), *options, "--workers", str(workers)], None) == 0
    return output


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".index" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def stores(photo_set, tmp_path_factory) -> dict[str, Path]:
    """Photos and odd images as JPEGs and as planes, in shards, in the same order."""
    root = tmp_path_factory.mktemp("stores")
    made = {store: ("--to", "shards", "--store", store) for store in ("jpeg", "planes")}
    made["smaller jpeg"] = ("--to", "shards", "--longest-side", "300")
    made["smaller planes"] = ("--to", "shards", "--longest-side", "300", "--store", "planes")
    return {name: prepare(photo_set, root / name.replace(" ", "_"), *options) for name, options in made.items()}


def opened(folder: Path):
    return open_dataset(folder, "train", progress=False)


def batches(dataset, plan, **options):
    with build_loader(dataset, plan, "native", batch_size=8, resolution=96, **options) as loader:
        return list(loader)


def same(first, second) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices) for a, b in pairs) and bool(pairs)


@pytest.mark.parametrize("smaller", ["", "smaller "])
@pytest.mark.parametrize("plan", ["train", "train with both filters", "evaluation", "evaluation of a view"])
def test_batches_are_those_of_the_jpegs_to_the_bit(stores, plan, smaller):
    jpegs, planes = opened(stores[f"{smaller}jpeg"]), opened(stores[f"{smaller}planes"])
    count = len(jpegs)
    assert (jpegs.labels(np.arange(count)) == planes.labels(np.arange(count))).all()
    made = {
        "train": lambda: TrainPlan(count, 16, seed=3),
        "train with both filters": lambda: TrainPlan(count, 16, seed=3, interpolation="random"),
        "evaluation": lambda: EvalPlan(count, 16),
        "evaluation of a view": lambda: EvalPlan(count, 16, resize=110, interpolation="bicubic"),
    }[plan]()
    assert same(batches(jpegs, made), batches(planes, made))


def test_a_resumed_rank_goes_on_with_the_same_pixels(stores):
    jpegs, planes = opened(stores["jpeg"]), opened(stores["planes"])
    plan = TrainPlan(len(jpegs), 16, seed=5)
    for rank in (0, 1):
        share = {"rank": rank, "world_size": 2}
        whole = batches(jpegs, plan, **share)
        with build_loader(planes, plan, "native", batch_size=8, resolution=96, **share) as loader:
            iterator = iter(loader)
            begun = [next(iterator)]
            state = loader.state_dict()
        with build_loader(planes, plan, "native", batch_size=8, resolution=96, **share) as loader:
            loader.load_state_dict(state)
            assert same(whole, [*begun, *loader])


def test_what_does_not_fit_stays_and_is_counted_by_reason(stores, capsys, photo_set):
    manifest = json.loads((stores["planes"] / "manifest.json").read_text())
    assert manifest["kept"] == {"CMYK": 1, "not JPEG (--quality makes it one)": 1, "turned by EXIF": 7}
    dataset = opened(stores["planes"])
    names = [dataset.short_name(index) for index in range(len(dataset))]
    assert sum(name.endswith(".y4m") for name in names) == len(names) - 9
    prepare(photo_set, stores["planes"], "--to", "shards", "--store", "planes")
    said = capsys.readouterr().out
    assert "prepared already" in said
    assert "--store planes: 9 images stay as they are: 1 CMYK, 1 not JPEG" in said


def test_any_number_of_workers_makes_the_same_bytes(stores, photo_set, tmp_path):
    assert contents(prepare(photo_set, tmp_path / "out", "--to", "shards", "--store", "planes", workers=3)) == contents(
        stores["planes"]
    )


def test_planes_become_other_planes_folders_and_jpegs(stores, photo_set, tmp_path):
    planes = stores["planes"]
    folder = prepare(planes, tmp_path / "folder", "--to", "folder")
    assert len(list(folder.glob("train/a/*.y4m"))) == 32
    assert same(batches(opened(folder), EvalPlan(49, 49)), batches(opened(photo_set), EvalPlan(49, 49)))
    first = next(folder.glob("train/a/*.y4m"))
    smaller = prepare(planes, tmp_path / "smaller", "--to", "folder", "--store", "planes", "--longest-side", "200")
    with Image.open(smaller / first.relative_to(folder)) as image:
        assert (image.format, max(image.size)) == ("YUV4MPEG2", 200)
    jpegs = prepare(planes, tmp_path / "jpegs", "--to", "folder", "--quality", "95")
    assert {path.suffix for path in jpegs.glob("train/*/*")} == {".jpg"}
    with Image.open(first) as before, Image.open((jpegs / first.relative_to(folder)).with_suffix(".jpg")) as after:
        assert (after.format, after.size) == ("JPEG", before.size)
        off = np.asarray(before).astype(float) - np.asarray(after)
    assert 10 * np.log10(255**2 / np.square(off).mean()) > 30


def test_a_beton_holds_no_planes(photo_set, tmp_path):
    with pytest.raises(DataError, match="--store planes cannot be made --to beton; choose --to folder or shards"):
        prepare(photo_set, tmp_path / "out", "--to", "beton", "--store", "planes")


@pytest.fixture
def damaged(stores, tmp_path):
    """Planes in a folder of which one is cut off and one holds two frames."""
    folder = prepare(stores["planes"], tmp_path / "folder", "--to", "folder")
    for number, change in {"03": lambda data: data[:-100], "07": lambda data: data + b"FRAME\n" + data[-999:]}.items():
        file = folder / f"train/a/{number}.y4m"
        file.write_bytes(change(file.read_bytes()))
    return folder


def test_damaged_planes_are_named_skipped_and_put_in_quarantine(damaged):
    dataset = opened(damaged)
    plan = EvalPlan(len(dataset), 7)
    with pytest.raises(DataError, match=r"train/a/03.y4m: it has .* bytes, and its planes need .*: it is truncated"):
        batches(dataset, plan)
    skipped = batches(dataset, plan, on_error="skip")
    assert sum(int((batch.labels == -1).sum()) for batch in skipped) == 2
    (damaged / "bad.txt").write_text("a/03.y4m\na/07.y4m\n")
    left = open_dataset(damaged, "train", quarantine=damaged / "bad.txt", progress=False)
    assert (len(left), left.quarantined) == (len(dataset) - 2, 2)
    batches(left, EvalPlan(len(left), 7))
    data = np.fromfile(damaged / "train/a/03.y4m", np.uint8)
    assert examine(data, "03.y4m", 8).condition == Condition.TRUNCATED
    sound = np.fromfile(damaged / "train/a/04.y4m", np.uint8)
    assert examine(sound, "04.y4m", 8).condition == Condition(0)
    assert examine(sound, "04.jpg", 8).reason == "it is YUV4MPEG2, not JPEG"


def test_the_doctor_sees_the_same_picture_in_planes_and_jpegs(stores):
    jpegs, planes = opened(stores["jpeg"]), opened(stores["planes"])
    for index in range(0, len(jpegs), 5):
        found = [examine(dataset.read(index), dataset.short_name(index), 8) for dataset in (jpegs, planes)]
        assert found[0] == found[1]


def test_planes_that_change_or_end_early_while_in_use(damaged):
    dataset = opened(damaged)
    (damaged / "train/a/05.y4m").write_bytes((damaged / "train/a/06.y4m").read_bytes())
    (damaged / "train/a/08.y4m").write_bytes(b"")
    with build_loader(dataset, EvalPlan(49, 49), "native", batch_size=49, resolution=64, on_error="skip") as loader:
        (batch,) = loader
        reasons = {Path(name).name: reason for name, reason in loader.substitutions}
    assert reasons["08.y4m"] == "the file is empty"
    assert torch.equal(batch.images[5], batch.images[6])


@pytest.mark.parametrize("backend", ["dali", "ffcv"])
def test_backends_that_decode_refuse_planes_in_one_line(stores, backend):
    dataset = opened(stores["planes"])
    with pytest.raises(DataError, match=f"backend '{backend}' decodes images, and .* holds planes") as raised:
        build_loader(dataset, TrainPlan(len(dataset), 8), backend, batch_size=8, resolution=64)
    assert "\n" not in str(raised.value)


def test_auto_takes_native_and_says_why(stores):
    dataset = opened(stores["planes"])
    with build_loader(dataset, TrainPlan(len(dataset), 8), "auto", batch_size=8, resolution=64) as loader:
        assert (loader.backend, loader.reason.split("; ")[0]) == ("native", "native alone reads planes")


def test_without_the_compiled_decoder_planes_have_nearly_the_same_pixels(stores, monkeypatch):
    dataset = opened(stores["planes"])
    plan = EvalPlan(len(dataset), len(dataset))
    with_it = batches(dataset, plan)
    monkeypatch.setattr("pipelines.decoding.fast_decode.library", lambda: (None, "no compiler"))
    without = batches(dataset, plan)
    for first, second in zip(with_it, without, strict=True):
        error = (first.images.double() - second.images.double()).square().mean().item()
        assert 10 * np.log10(255**2 / error) > 48
