"""The DALI backend: odd and bad images never stop it, and it leaves nothing behind."""

import gc
import itertools
import re
from pathlib import Path

import pytest
import torch

from pipelines import DataError, EvalPlan, TrainPlan, backends, build_loader, open_dataset


def load(dataset, plan, backend="dali", **options):
    return build_loader(dataset, plan, backend, **{"batch_size": 8, "resolution": 64, "workers": 2} | options)


@pytest.fixture
def changed(make_folder, odd_images, bad_images):
    """24 images of which the index thinks well and three have been overwritten since."""
    path = make_folder({f"train/a/{number:02d}.jpg": odd_images["plain"] for number in range(24)})
    dataset = open_dataset(path, "train", progress=False)
    for number, kind in {5: "text", 6: "noise", 17: "empty"}.items():
        (path / f"train/a/{number:02d}.jpg").write_bytes(bad_images[kind])
    return dataset


@pytest.mark.parametrize("prefetch", [1, 4])
def test_an_image_that_stops_dali_is_replaced_as_on_the_native_backend(changed, prefetch):
    plan = TrainPlan(24, 8, seed=3)
    seen = {}
    for backend in ("dali", "native"):
        with load(changed, plan, backend, on_error="skip", prefetch=prefetch) as loader:
            for epoch in range(2):
                loader.set_epoch(epoch)
                batches = [batch.indices.tolist() for batch in loader]
                names = [name for name, _ in loader.substitutions]
                seen.setdefault((epoch, "indices"), []).append(batches)
                seen.setdefault((epoch, "names"), []).append(names)
    assert all(dali == native for dali, native in seen.values())
    assert sorted(re.search(r"(\d\d)\.jpg", name)[1] for name in seen[0, "names"][0]) == ["05", "06", "17"]


def test_an_image_that_stops_dali_is_named(changed):
    with (
        load(changed, EvalPlan(24, 8)) as loader,
        pytest.raises(
            DataError, match=r"/a/05.jpg: it has 540 bytes where .* were indexed: it changed while in use; repair it"
        ),
    ):
        list(loader)


def test_an_image_that_stopped_dali_once_does_not_stop_it_again(changed, monkeypatch):
    with load(changed, EvalPlan(24, 8), on_error="skip") as loader:
        list(loader)
        monkeypatch.setattr(loader, "_build", lambda: pytest.fail("stopped again"))
        loader.set_epoch(0)
        assert [batch.labels.tolist().count(-1) for batch in loader] == [2, 0, 1]


def test_a_broken_off_epoch_with_a_bad_image_in_flight_can_be_left(changed):
    with load(changed, EvalPlan(24, 8), on_error="skip", prefetch=2) as loader:
        next(iter(loader))
        loader.set_epoch(0)
        assert len(list(loader)) == 3


def test_odd_images_come_from_the_native_decoder(photo_set):
    dataset = open_dataset(photo_set, "train", progress=False)
    plan = EvalPlan(len(dataset), 8)
    with load(dataset, plan) as dali, load(dataset, plan, "native") as native:
        pairs = list(zip(dali, native))
    odd = {"cmyk", "png", *(f"rotated{orientation}" for orientation in range(2, 9))}
    checked = 0
    for ours, theirs in pairs:
        for slot, index in enumerate(ours.indices.tolist()):
            if Path(dataset.name(index)).stem in odd:
                assert torch.equal(ours.images[slot], theirs.images[slot])
                checked += 1
    assert checked == len(odd)


def test_shards_and_folders_give_the_same_pixels(sample_val, tmp_path):
    import tarfile

    with tarfile.open(sample_val.path + "/val-000.tar") as shard:
        shard.extractall(tmp_path / "val", filter="data")
    folders = open_dataset(tmp_path, "val", progress=False)
    by_name = {folders.short_name(index): index for index in range(1000)}
    with load(sample_val, EvalPlan(1000, 200), batch_size=200) as loader:
        first = next(iter(loader))
    with load(folders, EvalPlan(1000, 1000), batch_size=1000) as loader:
        everything = next(iter(loader)).images
    for slot, index in enumerate(first.indices.tolist()):
        member = sample_val.short_name(index).partition(":")[2]
        assert torch.equal(first.images[slot], everything[by_name[member]])


def test_a_batch_outlives_the_loader_and_the_batches_behind_it(sample_val):
    with load(sample_val, EvalPlan(1000, 8)) as loader:
        kept = [(batch.images, batch.images.clone()) for batch in itertools.islice(loader, 20)]
    gc.collect()
    assert all(torch.equal(image, copy) for image, copy in kept)


def test_a_closed_loader_leaves_no_thread_and_no_file(sample_val):
    def threads_and_files():
        gc.collect()
        return len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir()))

    def broken_off():
        with load(sample_val, TrainPlan(1000, 64)) as loader:
            next(iter(loader))

    broken_off()  # what DALI starts once a process
    before = threads_and_files()
    for _ in range(3):
        broken_off()
    threads, files = threads_and_files()
    assert threads <= before[0]
    assert files <= before[1]


def test_an_unknown_setting_is_one_clear_line(sample_val):
    with pytest.raises(DataError, match=r"unknown DALI setting 'hw_load' \(nearest: hw_decoder_load\)"):
        load(sample_val, TrainPlan(1000, 64), settings={"hw_load": 0.5})


def test_a_backend_that_is_not_installed_names_what_to_install(sample_val, monkeypatch):
    monkeypatch.setattr(backends.Backend, "installed", lambda self: False)
    with pytest.raises(
        DataError, match=r"backend 'dali' needs nvidia.dali, .*: pip install 'inception-training\[dali\]'"
    ):
        load(sample_val, TrainPlan(1000, 64))


@pytest.mark.gpu
def test_decoding_on_a_gpu_gives_the_pixels_of_the_cpu(photo_set):
    dataset = open_dataset(photo_set, "train", progress=False)
    plan = TrainPlan(len(dataset), 8, seed=2)
    with load(dataset, plan) as host, load(dataset, plan, device="cuda") as device:
        for ours, theirs in zip(host, device):
            assert theirs.images.is_cuda
            error = (ours.images.double() - theirs.images.cpu().double()).square().mean().item()
            assert error < 255**2 / 10**3.5  # 35 dB: nvJPEG's inverse transform is its own
