"""The study of what networks learn: a twin computes what ours does, and the losses of 200 steps are what they always were.

`golden_learning.json` holds the losses of each network, in fp64 on the embedded sample. Processors differ in rounding, which
normalisation over a few values and ReLUs amplify: of AVX-512, AVX2 and no vector instructions the first three losses agree
to 1e-7, and means over a quarter of the steps to 3%. A changed weight, order, gradient or update shows in the first steps, one
that learns worse in the means. `python tests/benchmarks/studies/test_learning.py` writes the file anew; a change that alters it
must say why.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch

from benchmarks.measuring import BenchmarkError
from benchmarks.peers.twins import TWINS
from benchmarks.reporting.results import read_results
from benchmarks.studies import learning
from benchmarks.studies.learning import pair_of, trained
from pipelines import open_dataset, sample_path

GOLDEN = Path(__file__).with_name("golden_learning.json")
STEPS, WIDTH = 200, 1 / 16
SETTING = {"batch_size": 8, "epochs": 1, "lr": 0.001}
FIRST, TIGHT, LOOSE = 3, 1e-5, 0.06


def losses(network: torch.nn.Module, pixels: int, steps: int = STEPS) -> list[float]:
    sample = open_dataset(sample_path(), "train", progress=False)
    return trained(network, pixels, sample, 0, **SETTING, steps=steps)


def pair_in_double(name: str) -> tuple[int, torch.nn.Module, torch.nn.Module]:
    """Size of the images [pixels], ours, its twin: drawn and computed in fp64, where processors hardly differ."""
    torch.set_default_dtype(torch.float64)
    try:
        pixels, pair = pair_of(name, 10, WIDTH, 0)
    finally:
        torch.set_default_dtype(torch.float32)
    return pixels, *pair.values()


def quarters(values: list[float]) -> list[float]:
    """Means over a quarter of the steps."""
    return [statistics.fmean(values[start : start + STEPS // 4]) for start in range(0, STEPS, STEPS // 4)]


@pytest.mark.parametrize("name", TWINS)
def test_losses_of_200_steps_are_what_they_have_always_been(name):
    pixels, ours, _ = pair_in_double(name)
    golden, found = json.loads(GOLDEN.read_text())[name], losses(ours, pixels)
    assert len(golden) == len(found) == STEPS
    assert found[:FIRST] == pytest.approx(golden[:FIRST], rel=TIGHT)
    assert quarters(found) == pytest.approx(quarters(golden), rel=LOOSE)


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_trains_as_ours_does(name):
    pixels, ours, theirs = pair_in_double(name)
    assert losses(theirs, pixels, 5) == pytest.approx(losses(ours, pixels, 5), rel=1e-9)


def test_a_pair_is_trained_and_judged(shades, tmp_path):
    small = ["--networks", "googlenet", "--data", str(shades), "--batch-size", "8", "--epochs", "8"]
    assert learning.main([*small, "--output", str(tmp_path)]) == 0
    (result,) = read_results(tmp_path)
    ours, theirs, apart = result["rows"]
    assert (ours.case["of"], theirs.case["of"]) == ("ours", "torchvision")
    assert len(ours.values) == len(theirs.values) == 2
    assert min(ours.values + theirs.values) > 60  # dark and light
    assert apart.values == pytest.approx([a - b for a, b in zip(ours.values, theirs.values)])
    assert apart.details["fp64"] == "same losses for 48 of 48 steps"


def test_a_network_without_a_twin_is_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="debug: no such network with a twin"):
        learning.main(["--networks", "debug", "--output", str(tmp_path)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: losses(*pair_in_double(name)[1::-1]) for name in TWINS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
