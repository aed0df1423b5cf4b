"""Every backend shows the network the same pixels: compared one by one with Pillow's, in training and evaluation."""

import re
from functools import partial

import numpy as np
import pytest

from pipelines import DataError, EvalPlan, TrainPlan, build_loader, open_dataset
from pipelines.loading.backends import BACKENDS
from pipelines.preparing.beton_writer import write_beton
from pipelines.tools.parity import main, ratios


@pytest.mark.parametrize("size", [64, 299])
@pytest.mark.parametrize("kind", ["train", "eval"])
def test_pixels_are_pillows(photo_set, backend, kind, size):
    """Photographs, and one in every odd form: gray, CMYK, progressive, rotated by EXIF, PNG."""
    dataset = open_dataset(photo_set, "train", progress=False)
    plan = TrainPlan(len(dataset), 16, seed=1, drop_last=False) if kind == "train" else EvalPlan(len(dataset), 16)
    found = ratios(dataset, plan, backend, size)
    assert len(found) == len(dataset)
    assert np.median(found) >= 50
    assert min(found) >= 40


@pytest.mark.parametrize(("size", "resize"), [(64, 73), (299, 341), (224, 256)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("exif", [True, False])
def test_whole_images_resized_before_the_cut_are_pillows(photo_set, backend, size, resize, interpolation, exif):
    """The geometry of other people's evaluation, turned by EXIF or not."""
    dataset = open_dataset(photo_set, "train", exif=exif, progress=False)
    found = ratios(dataset, EvalPlan(len(dataset), 16, resize=resize, interpolation=interpolation), backend, size)
    assert len(found) == len(dataset)
    assert np.median(found) >= 50
    assert min(found) >= 40


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
def test_training_crops_may_be_resized_bicubically(photo_set, backend, interpolation, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr("pipelines.decoding.fast_decode.library", lambda: (None, "not wanted"))
    dataset = open_dataset(photo_set, "train", progress=False)
    plan = TrainPlan(len(dataset), 16, seed=1, drop_last=False, interpolation=interpolation)
    if interpolation == "random":
        assert 0 < plan.bicubic(0, np.arange(len(dataset))).mean() < 1
    found = ratios(dataset, plan, backend, 128)
    assert np.median(found) >= 50
    assert min(found) >= 40


def test_an_ffcv_file_is_shown_bicubically_and_resized_before_the_cut_too(photo_set, tmp_path):
    """Raw pixels by the native decoder, which the loader says."""
    files = open_dataset(photo_set, "train", progress=False)
    write_beton(partial(open_dataset, photo_set, "train", progress=False), tmp_path / "train.beton")
    dataset = open_dataset(tmp_path, "train", progress=False)
    plan = EvalPlan(len(files), 16, resize=146, interpolation="bicubic")
    found = ratios(dataset, plan, "ffcv", 128)
    assert np.median(found) >= 50
    assert min(found) >= 40
    with build_loader(dataset, plan, "ffcv", batch_size=16, resolution=128) as loader:
        assert "raw pixels by the native decoder" in loader.reason


def test_the_command_prints_every_installed_backend(capsys):
    assert main(["--photos", "4", "--size", "64"], None) == 0
    output = capsys.readouterr().out
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", output, re.MULTILINE)
    assert [row[0] for row in rows] == [
        name for name, backend in BACKENDS.items() if name != "synthetic" and backend.installed()
    ]
    assert all(float(figure) >= 40 for row in rows for figure in row[1:])


def test_a_bad_option_of_the_command_is_one_line():
    with pytest.raises(DataError, match="--size and --photos must be at least 1"):
        main(["--size", "0"], None)
