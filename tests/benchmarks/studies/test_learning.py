"""The study of what networks learn: a twin computes what ours does, and each learns in 200 steps as it always has.

`golden_learning.json` holds the losses of each network, in fp64 on squares of noise of four colours. Processors differ in
rounding, which normalisation over a few values and ReLUs amplify: of AVX-512, AVX2 and no vector instructions the first three
losses agree to ROUNDING. What changes weights, gradients or the first updates shows there; a training that learns less, in the
mean of the last steps, which may be MORE times the golden one's.
`python tests/benchmarks/studies/test_learning.py` writes the file anew; a change that alters it must say why.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.measuring import BenchmarkError
from benchmarks.peers.twins import TWINS
from benchmarks.reporting.results import read_results
from benchmarks.studies import learning
from benchmarks.studies.learning import pair_of, trained

GOLDEN = Path(__file__).with_name("golden_learning.json")
STEPS, WIDTH, BATCH, LR = 200, 1 / 16, 8, 0.01
LEVELS = torch.tensor([[60, 60, 60], [190, 60, 60], [60, 190, 60], [60, 60, 190]])
ROUNDING, LAST, MORE = 1e-5, 50, 1.5
DEEPEST = ("inception_v4", "inception_resnet_v2")


def batches(pixels: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images whose colour tells their class, with much noise: whole numbers, the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        labels = torch.randint(len(LEVELS), (BATCH,), generator=generator)
        noise = torch.randint(-60, 61, (BATCH, 3, pixels, pixels), generator=generator)
        images = (LEVELS[labels][:, :, None, None] + noise).to(torch.uint8)
        yield images.contiguous(memory_format=torch.channels_last), labels


def losses(network: torch.nn.Module, pixels: int, steps: int = STEPS) -> list[float]:
    return trained(network, batches(pixels, steps), LR, STEPS)


def pair_in_double(name: str) -> tuple[int, torch.nn.Module, torch.nn.Module]:
    """Size of the images [pixels], ours, its twin: drawn and computed in fp64, where processors hardly differ."""
    torch.set_default_dtype(torch.float64)
    try:
        pixels, pair = pair_of(name, len(LEVELS), WIDTH, 0)
    finally:
        torch.set_default_dtype(torch.float32)
    return pixels, *pair.values()


@pytest.mark.parametrize("name", TWINS)
def test_the_first_steps_learn_what_they_always_have(name):
    pixels, ours, _ = pair_in_double(name)
    golden, found = json.loads(GOLDEN.read_text())[name], losses(ours, pixels, 3)
    assert found == pytest.approx(golden[:3], rel=ROUNDING)


# The two deepest take as long as the others together, of the same kinds of blocks.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name in DEEPEST else ()) for name in TWINS]
)
def test_200_steps_learn_what_they_always_have(name):
    pixels, ours, _ = pair_in_double(name)
    golden, found = json.loads(GOLDEN.read_text())[name], losses(ours, pixels)
    assert len(found) == len(golden) == STEPS
    assert statistics.fmean(found[-LAST:]) < MORE * statistics.fmean(golden[-LAST:])


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_trains_as_ours_does(name):
    pixels, ours, theirs = pair_in_double(name)
    assert losses(theirs, pixels, 5) == pytest.approx(losses(ours, pixels, 5), rel=learning.SAME)


def test_a_pair_is_trained_and_judged(shades, tmp_path):
    small = ["--networks", "googlenet", "--data", str(shades), "--batch-size", "8", "--epochs", "12", "--lr", "0.02"]
    assert learning.main([*small, "--output", str(tmp_path)]) == 0
    (result,) = read_results(tmp_path)
    ours, theirs, apart = result["rows"]
    assert (ours.case["of"], theirs.case["of"]) == ("ours", "torchvision")
    assert len(ours.values) == len(theirs.values) == 2
    assert min(ours.values + theirs.values) > 60  # dark and light
    assert apart.values == pytest.approx([a - b for a, b in zip(ours.values, theirs.values)])
    assert apart.details["fp64"] == "same losses for 72 of 72 steps"


def test_a_network_without_a_twin_is_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="debug: no such network with a twin"):
        learning.main(["--networks", "debug", "--output", str(tmp_path)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: losses(*pair_in_double(name)[1::-1]) for name in TWINS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
