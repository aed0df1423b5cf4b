"""The DALI backend: odd and bad images never stop it, and it leaves nothing behind."""

import gc
import itertools
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import tars
from engine.config.data_options import DaliConfig
from pipelines import DataError, EvalPlan, TrainPlan, build_loader, open_dataset
from pipelines.loading import backends, dali, nvjpeg
from pipelines.loading.task import Options
from processes import growth_over_epochs, held


def load(dataset, plan, backend="dali", **options):
    return build_loader(dataset, plan, backend, **{"batch_size": 8, "resolution": 64, "workers": 2} | options)


@pytest.fixture
def changed(make_folder, odd_images, bad_images):
    """24 images of which the index thinks well; three have been overwritten since, of which size and time tell nothing."""
    path = make_folder({f"train/a/{number:02d}.jpg": odd_images["plain"] for number in range(24)})
    dataset = open_dataset(path, "train", progress=False)
    for number, kind in {5: "text", 6: "noise", 17: "empty"}.items():
        file = path / f"train/a/{number:02d}.jpg"
        before = file.stat()
        file.write_bytes(bad_images[kind].ljust(before.st_size, b"\0")[: before.st_size])
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
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
        pytest.raises(DataError, match=r"/a/05.jpg: it is no image that can be read; repair it"),
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
                # What EXIF turns is decoded by the compiled decoder there, and by torchvision's here.
                near = 10 * torch.log10(
                    255**2 / (ours.images[slot].float() - theirs.images[slot].float()).square().mean()
                )
                turned = Path(dataset.name(index)).stem.startswith("rotated")
                assert near > 48 if turned else torch.equal(ours.images[slot], theirs.images[slot])
                checked += 1
    assert checked == len(odd)


def test_shards_and_folders_give_the_same_pixels(sample_val, tmp_path):
    tars.unpack(sample_val.path + "/val-000.tar", tmp_path / "val")
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


def broken_off(sample_val, changed):
    with load(sample_val, TrainPlan(1000, 64)) as loader:
        next(iter(loader))


def ended_by_an_image_that_stops_dali(sample_val, changed):
    with (
        load(changed, EvalPlan(24, 8), prefetch=4) as loader,
        pytest.raises(DataError, match=r"/a/05.jpg: it is no image that can be read") as raised,
    ):
        list(loader)
    assert "\n" not in str(raised.value)
    assert loader._avoided == {5, 6}  # it was DALI that raised


@pytest.mark.parametrize("end", [broken_off, ended_by_an_image_that_stops_dali])
def test_a_closed_loader_leaves_no_thread_no_process_and_no_file(sample_val, changed, end):
    end(sample_val, changed)  # what DALI starts once a process
    before = held()
    for _ in range(3):
        end(sample_val, changed)
    after = held()
    assert after.tasks <= before.tasks
    assert (after.threads, after.files, after.children) == (before.threads, before.files, before.children)


def test_twenty_epochs_do_not_grow_memory(sample_val):
    with load(sample_val, TrainPlan(1000, 100), batch_size=100, resolution=32) as loader:
        assert growth_over_epochs(loader) < 8


@pytest.mark.parametrize("found", [None, (12, 4), (13, 3)])
def test_settings_reach_dali_on_a_gpu(sample_val, monkeypatch, found):
    """The arguments of DALI's own operators and pipeline, taken before the pipeline is built, which needs the GPU. Whole
    images are decoded, since decoders of a GPU refuse boxes."""
    given, decoders = {}, dali.fn.decoders

    def recorded(decoder):
        def record(*inputs, **options):
            given.update(options, decoder=decoder.__name__)
            return decoder(*inputs, **options)

        return record

    monkeypatch.setattr(nvjpeg, "version", lambda: found)
    monkeypatch.setattr(decoders, "image_slice", recorded(decoders.image_slice))
    monkeypatch.setattr(decoders, "image", recorded(decoders.image))
    monkeypatch.setattr(dali.Pipeline, "build", lambda pipeline: None)
    monkeypatch.setattr(dali.DaliLoader, "_warm_up", lambda *_: None)

    def pipeline_with(**settings):
        wanted = asdict(replace(DaliConfig(), **settings))
        options = Options(torch.device("cuda", 1), 8, 64, 0, 1, workers=3, prefetch=4, skip=False, settings=wanted)
        with dali.DaliLoader(sample_val, TrainPlan(1000, 64), options) as loader:
            assert "whole images are decoded" in loader.remark
            assert "no nvJPEG" in loader.remark if found is None else f"nvJPEG {found[0]}.{found[1]}:" in loader.remark
            return loader._pipeline

    pipeline = pipeline_with(
        hw_decoder_load=0.25,
        width_hint=640,
        height_hint=480,
        device_padding=1 << 20,
        host_padding=2 << 20,
        affinity=False,
    )
    wanted = {
        "device": "mixed",
        "decoder": "image",
        "jpeg_fancy_upsampling": True,
        "hw_decoder_load": 0.25,
        "preallocate_width_hint": 640,
        "preallocate_height_hint": 480,
        "device_memory_padding": 1 << 20,
        "host_memory_padding": 2 << 20,
    }
    assert {name: given[name] for name in wanted} == wanted
    assert (pipeline.batch_size, pipeline.num_threads, pipeline.device_id) == (8, 3, 1)
    assert pipeline.prefetch_queue_depth == 5  # the batch that is computed on, and those ahead of it
    assert not pipeline.set_affinity
    assert pipeline_with().set_affinity
    # Without hints, the largest image of the dataset.
    assert (given["preallocate_width_hint"], given["preallocate_height_hint"]) == (32, 32)
    assert given["hw_decoder_load"] == dali.Settings().hw_decoder_load


def test_cropping_after_the_decoder_gives_the_same_pixels(photo_set):
    dataset = open_dataset(photo_set, "train", progress=False)
    plan = TrainPlan(len(dataset), 8, seed=2)
    with load(dataset, plan) as cutting, load(dataset, plan) as whole:
        whole._cuts_in_decoder = False
        whole._pipeline = whole._build()
        for ours, theirs in zip(cutting, whole, strict=True):
            error = (ours.images.double() - theirs.images.double()).square().mean().item()
            assert error < 255**2 / 10**5  # 50 dB: a decoder that cuts knows less of the colours at the edges


def test_the_version_of_nvjpeg_is_read_from_its_library():
    found = nvjpeg.version()
    assert found is not None  # nvidia-dali brings one
    assert found[0] == dali.nvidia.dali.__cuda_version__ // 1000


def test_the_options_are_dalis_settings():
    assert asdict(DaliConfig()) == asdict(dali.Settings())


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
