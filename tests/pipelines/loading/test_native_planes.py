"""The native loader that has a GPU resize planes: the same batches as on the CPU, in Triton's interpreter and on a GPU if there
is one; where it does not apply, the CPU does it and the loader says why."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import DataError, EvalPlan, TrainPlan, build_loader, open_dataset
from pipelines.decoding import fast_decode
from pipelines.decoding.staging import ENTRY
from pipelines.loading import native, native_planes
from pipelines.loading.task import Options
from pipelines.prepare import main

DRIVER = "tests/pipelines/loading/native_planes_driver.py"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    """Small pictures as planes in class folders, one of them gray, and beside them a CMYK and a turned JPEG and a PNG."""
    source, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    for number in range(11):
        blocks = Image.fromarray(generator.integers(0, 256, (5, 5, 3), np.uint8))
        small = blocks.resize((12 + number, 22 - number), Image.Resampling.BICUBIC)
        file = source / f"train/{'ab'[number % 2]}/{number:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        kinds = {3: ("CMYK", {}), 5: ("RGB", {"exif": turned}), 7: ("L", {}), 9: ("RGB", {"subsampling": 0})}
        mode, how = kinds.get(number, ("RGB", {}))
        small.convert(mode).save(file.with_suffix(".png" if number == 10 else ".jpg"), **how)
    output = tmp_path_factory.mktemp("planes") / "folder"
    assert main(["folder", str(source), "--to", "folder", "--store", "planes", "--output", str(output)], None) == 0
    return output


def loader_of(path, plan=TrainPlan, device="cpu", settings=None, **how):
    dataset = open_dataset(path, "train", progress=False)
    settings = {"planes_on_device": True} if settings is None else settings
    how = {"batch_size": 4, "resolution": 16, "workers": 1, "settings": settings} | how
    return build_loader(dataset, plan(len(dataset), 8), "native", device, **how)


def check(found: dict, device: str) -> None:
    """The batches, their order and what stands in for a damaged image are those of the CPU; pixels differ by a level."""
    assert "planes are resized on the GPU, 3 other images on the CPU" in found["reason"]
    assert "planes are resized on the CPU, although planes_on_device is set: evaluation" in found["evaluation"]
    for what, batches in {"an epoch": 3, "another size": 2, "a resumed rank": 1, "a damaged image": 3}.items():
        assert found[what].pop("levels") <= 1, what
        assert found[what] == {"batches": batches, "same": True, "device": device}, what
    ours, wanted = found["substitutions"]
    assert len(ours) == 1
    assert ours == wanted


@needs_triton
def test_batches_are_those_of_the_cpu_in_the_interpreter(planes, run_command, tmp_path):
    check(report(run_command, "cpu", planes, tmp_path, {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}), "cpu")


@pytest.mark.gpu
def test_batches_are_those_of_the_cpu_on_a_gpu(planes, run_command, tmp_path):
    check(report(run_command, "cuda", planes, tmp_path, {}), "cuda")


def report(run_command, device, planes, tmp_path, env) -> dict:
    copy = tmp_path / "copy"
    for file in planes.glob("train/*/*"):  # one of which is damaged
        (copy / file.relative_to(planes)).parent.mkdir(parents=True, exist_ok=True)
        (copy / file.relative_to(planes)).write_bytes(file.read_bytes())
    done = run_command([DRIVER, device, copy], env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.gpu
def test_the_host_waits_for_no_copy_and_no_kernel(planes):
    with loader_of(planes, device="cuda", batch_size=1, prefetch=2) as loader:
        assert len(list(loader)) == 8  # what is made once
        torch.cuda.set_sync_debug_mode("error")  # before anything of the next epoch is begun
        try:
            assert len(list(loader)) == 8
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_where_it_does_not_apply_the_cpu_does_it_and_says_why(planes, photo_set, monkeypatch):
    def reason(path=planes, **how):
        with loader_of(path, **how) as loader:
            assert loader.backend == "native"
            assert len(next(iter(loader))) == 4
            return loader.reason

    said = "; planes are resized on the CPU, although planes_on_device is set: "
    assert reason().endswith(f"{said}the device is no GPU")
    assert reason(photo_set).endswith(f"{said}the dataset holds none")
    assert reason(plan=EvalPlan).endswith(f"{said}evaluation shows the same pixels on every device")
    assert "resized" not in reason(settings={})
    monkeypatch.setitem(sys.modules, "triton", None)
    assert reason().endswith(f"{said}the device is no GPU")  # for which Triton would be of no use
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert reason().endswith(f"{said}Triton is not installed")
    monkeypatch.setattr(fast_decode, "library", lambda: (None, "no compiler"))
    assert reason().endswith(f"{said}there is no compiled decoder to read their rows (no compiler)")


def test_triton_is_asked_for_on_a_gpu(planes, monkeypatch):
    dataset = open_dataset(planes, "train", progress=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    why = native_planes.why_not(dataset, TrainPlan(len(dataset), 8), torch.device("cuda", 0))
    assert why == "Triton is not installed"


def test_without_the_setting_nothing_is_said_of_it(planes, monkeypatch):
    dataset = open_dataset(planes, "train", progress=False)
    monkeypatch.setattr(native, "NativeLoader", lambda *_: Mock(remark=""))
    options = Options(torch.device("cuda", 0), 4, 16, 0, 1, 1, 2, False)
    assert native.native_loader(dataset, TrainPlan(len(dataset), 8), options).remark == ""


def test_what_counts_are_the_samples_that_are_shown(planes, tmp_path):
    """Neither what is in quarantine nor what cannot be read; where most are no planes, the CPU does it."""
    for file in planes.glob("train/*/*"):
        (tmp_path / file.relative_to(planes)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.relative_to(planes)).write_bytes(b"?" if file.suffix == ".png" else file.read_bytes())

    def opened(left_out: int):
        """Without so many of the planes, and without one of the other images."""
        stored = sorted(path.relative_to(tmp_path / "train") for path in tmp_path.glob("train/*/*.y4m"))
        cmyk = next(path.relative_to(tmp_path / "train") for path in tmp_path.glob("train/*/03*"))
        names = [str(path) for path in (*stored[:left_out], *[cmyk][:left_out])]
        (tmp_path / "quarantine").write_text("\n".join(names))
        dataset = open_dataset(tmp_path, "train", quarantine=tmp_path / "quarantine", progress=False)
        return dataset, native_planes.why_not(dataset, TrainPlan(len(dataset), 1), torch.device("cpu"))

    dataset, why = opened(0)
    assert (dataset.planes_and_images(), why) == ((8, 2), "the device is no GPU")
    dataset, why = opened(7)
    assert (dataset.planes_and_images(), why) == ((1, 1), "the device is no GPU")
    dataset, why = opened(8)
    assert (dataset.holds_planes, why) == (False, "the dataset holds none")
    dataset = Mock(holds_planes=True, planes_and_images=lambda: (1, 1_000_000))
    why = native_planes.why_not(dataset, Mock(), torch.device("cuda", 0))
    assert why == "the dataset holds 1 beside 1,000,000 encoded images"


@needs_triton
def test_the_kernel_is_tried_on_every_sampling_filter_and_mirroring(monkeypatch):
    from pipelines.decoding import resize_kernel

    launched = []
    monkeypatch.setattr(resize_kernel, "resize", lambda staged, out: (launched.append(staged), out.zero_()))
    assert native_planes._off.__wrapped__(torch.device("cpu")) > 1
    (staged,) = launched
    table = staged.numpy()[: 16 * ENTRY.itemsize].view(ENTRY)
    tried = set(table[["across", "down", "bicubic", "flip"]].tolist())
    chroma = ((2, 2), (2, 1), (1, 1), (0, 0))
    assert tried == {(*covered, *how) for covered, how in itertools.product(chroma, itertools.product((0, 1), (0, 1)))}
    assert min(table["place"]) >= 0


@needs_triton
def test_a_kernel_that_fails_or_is_wrong_is_not_used(planes, monkeypatch):
    dataset = open_dataset(planes, "train", progress=False)
    found = dataset, TrainPlan(len(dataset), 8), torch.device("cuda", 0)

    def fails(device):
        raise RuntimeError("ptxas: no such file\nand more")

    monkeypatch.setattr(native_planes, "_off", fails)
    assert native_planes.why_not(*found) == "Triton fails here (RuntimeError: ptxas: no such file)"
    monkeypatch.setattr(native_planes, "_off", lambda device: 7)
    assert native_planes.why_not(*found) == "its kernel is 7 levels off on test pictures"
    monkeypatch.setattr(native_planes, "_off", lambda device: 1)
    assert native_planes.why_not(*found) == ""


def test_an_unknown_setting_is_named(planes):
    with pytest.raises(DataError, match=r"unknown native setting 'planes_on_gpu'.*there is only 'planes_on_device'"):
        loader_of(planes, settings={"planes_on_gpu": True})
