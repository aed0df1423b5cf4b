"""Every backend shows the network the same pixels: compared one by one with Pillow's, in training and evaluation."""

import re

import numpy as np
import pytest

from pipelines import DataError, EvalPlan, TrainPlan, open_dataset
from pipelines.loading.backends import BACKENDS
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
