"""The native loader that has a GPU resize planes: the same batches as on the CPU, in Triton's interpreter and on a GPU if there
is one; where it does not apply, the CPU does it and the loader says why."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import DataError, EvalPlan, TrainPlan, build_loader, open_dataset
from pipelines.decoding import fast_decode
from pipelines.loading import native_planes
from pipelines.prepare import main

DRIVER = "tests/pipelines/loading/native_planes_driver.py"


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
    return build_loader(
        dataset,
        plan(len(dataset), 8),
        "native",
        device,
        batch_size=4,
        resolution=16,
        workers=1,
        settings=settings,
        **how,
    )


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
    with loader_of(planes, device="cuda") as loader:
        batches = iter(loader)
        next(batches)
        torch.cuda.set_sync_debug_mode("error")
        try:
            assert len(list(batches)) == 1
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
    assert reason().endswith(f"{said}Triton is not installed")
    monkeypatch.setattr(fast_decode, "library", lambda: (None, "no compiler"))
    assert reason().endswith(f"{said}there is no compiled decoder to read their rows (no compiler)")


def test_a_kernel_that_fails_or_is_wrong_is_not_used(planes, monkeypatch):
    dataset = open_dataset(planes, "train", progress=False)
    found = dataset, TrainPlan(len(dataset), 8), torch.device("cuda", 0)

    def fails(device):
        raise RuntimeError("ptxas: no such file\nand more")

    monkeypatch.setattr(native_planes, "_off", fails)
    assert native_planes.why_not(*found) == "Triton fails here (RuntimeError: ptxas: no such file)"
    monkeypatch.setattr(native_planes, "_off", lambda device: 7)
    assert native_planes.why_not(*found) == "its kernel is 7 levels off on a test picture"
    monkeypatch.setattr(native_planes, "_off", lambda device: 1)
    assert native_planes.why_not(*found) == ""


def test_an_unknown_setting_is_named(planes):
    with pytest.raises(DataError, match=r"unknown native setting 'planes_on_gpu'.*there is only 'planes_on_device'"):
        loader_of(planes, settings={"planes_on_gpu": True})
