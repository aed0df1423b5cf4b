"""Each network of the family trained from scratch beside its twin of another project, in one plain loop: what both learn.

    python benchmarks/studies/learning.py --data DIR
    python benchmarks/studies/learning.py --networks inception_v3 --data DIR --epochs 30 --seeds 3

DIR has class folders in train and val, such as CIFAR-10 as JPEGs; without it, it is the embedded sample. Both get the same
images in the same order and start from the same weights, an eighth as wide as the paper's, on the smallest images (of at least
32 pixels) that the network takes. A seed decides the weights, the order and the crops. In fp32 a pair drifts apart by
rounding, as two seeds do; so both also train for a while in fp64, where their losses should stay the same.
"""

import importlib.util
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measuring import BenchmarkError
from benchmarks.measuring.command_line import positive
from benchmarks.peers.twins import TWINS, twin_of
from benchmarks.reporting import Result, Study
from inception import create_model
from pipelines import Dataset, EvalPlan, TrainPlan, build_loader, open_dataset, sample_path

LEAST_PIXELS = 32
CROPS = (0.6, 1.0)  # share of an image that a crop covers
SETTING = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
LAST_STEPS = 20  # whose mean loss the table shows
EXACT_STEPS = 200  # in fp64, to see whether the two compute the same
SAME = 1e-9  # a relative difference of losses that is rounding in fp64
Batches = Iterator[tuple[Tensor, Tensor]]


class Learned(NamedTuple):
    """Losses of all steps, and the top-1 in percent after the last."""

    losses: list[float]
    top1: float


study = Study("learning", __doc__, networks=list(TWINS), batch_size=128, seeds=2)
study.option("--data", type=Path, help="dataset with class folders; none: the embedded sample")
study.option("--epochs", type=positive, default=2, help="of each training")
study.option("--width", type=float, default=0.125, help="of the networks, as a multiple of the paper's")
study.option("--lr", type=float, default=0.05, help="the largest learning rate")


@study.check
def known(options: Any) -> None:
    """Raises BenchmarkError for a network that has no twin, or whose twin's project is not installed."""
    if unknown := set(options.networks) - set(TWINS):
        raise BenchmarkError(f"{', '.join(sorted(unknown))}: no such network with a twin; there are {', '.join(TWINS)}")
    for source in sorted({TWINS[name][0] for name in options.networks}):
        if importlib.util.find_spec(source) is None:
            raise BenchmarkError(f"{source}, which has the twins of some of these networks, is not installed")


@study
def main(options: Any, result: Result) -> list[str]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = open_dataset(options.data or sample_path(), "train", progress=False)
    val = open_dataset(options.data or sample_path(), "val", classes=train.classes, progress=False)
    train.require_single_labels("this study")
    result.note(
        f"{len(train)} images to train on, {len(val)} to judge by, {options.epochs} epochs, batch {options.batch_size}, width "
        f"{options.width:g}, one-cycle schedule up to {options.lr:g}; no dropout, no auxiliary heads. Both of a pair start from "
        "the same weights, which ours draws."
    )
    steps = options.epochs * TrainPlan(len(train), options.batch_size).batches
    variances: list[float] = []
    for name in options.networks:
        runs: dict[str, list[Learned]] = {}
        for seed in range(options.seeds):
            pixels, pair = pair_of(name, len(train.classes), options.width, seed)
            for who, network in pair.items():
                batches = training_batches(train, pixels, seed, options, device)
                losses = trained(network.to(device), batches, options.lr, steps)
                learned = Learned(losses, judged(network, val, pixels, options.batch_size))
                runs.setdefault(who, []).append(learned)
                result.say(f"{name}, {who}, seed {seed}: loss {losses[-1]:.3f}, top-1 {learned.top1:.2f}%")
        _, pair = pair_of(name, len(train.classes), options.width, 0)
        exact = []
        for network in pair.values():
            batches = itertools.islice(training_batches(train, pixels, 0, options, device), EXACT_STEPS)
            exact.append(trained(network.double().to(device), batches, options.lr, steps))
        _add(result, name, pixels, runs, exact)
        result.save()
        variances += [np.var([run.top1 for run in group], ddof=1) for group in runs.values() if options.seeds > 1]
    if variances:
        result.note(
            f"From seed to seed the top-1 of one network deviates by {np.sqrt(np.mean(variances)):.2f} points (pooled over "
            f"{len(variances)} groups of {options.seeds})."
        )
    return ["pixels", "last_loss", "fp64"]


def pair_of(name: str, classes: int, width: float, seed: int) -> tuple[int, dict[str, nn.Module]]:
    """The smallest images, of at least `LEAST_PIXELS`, that the network takes [pixels a side]; ours, and its twin by source."""
    torch.manual_seed(seed)
    ours = create_model(name, classes, width=width, auxiliary=False, dropout=0.0)
    return max(ours.smallest_size, LEAST_PIXELS), {"ours": ours, **dict([twin_of(ours)])}


def training_batches(dataset: Dataset, pixels: int, seed: int, options: Any, device: torch.device) -> Batches:
    """All epochs' images, uint8 (N, 3, pixels, pixels), and labels (N,)."""
    plan = TrainPlan(len(dataset), options.batch_size, seed=seed, scale=CROPS)
    with build_loader(dataset, plan, "native", device, batch_size=options.batch_size, resolution=pixels) as loader:
        for epoch in range(options.epochs):
            loader.set_epoch(epoch)
            yield from ((batch.images, batch.labels) for batch in loader)


def trained(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], lr: float, steps: int) -> list[float]:
    """The losses of the plain loop: SGD with momentum and a one-cycle schedule of so many steps."""
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr, **SETTING)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    losses = []
    for images, labels in batches:
        loss = F.cross_entropy(network(normalised(images, network)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def judged(network: nn.Module, dataset: Dataset, pixels: int, batch_size: int) -> float:
    """Top-1 on all of a split [percent]."""
    device, plan, right = next(network.parameters()).device, EvalPlan(len(dataset), batch_size), 0
    network.eval()
    common = {"batch_size": batch_size, "resolution": pixels}
    with build_loader(dataset, plan, "native", device, **common) as loader, torch.inference_mode():
        for batch in loader:
            right += int((network(normalised(batch.images, network)).argmax(1) == batch.labels).sum())
    return 100 * right / len(dataset)


def normalised(images: Tensor, network: nn.Module) -> Tensor:
    """uint8 images (N, 3, H, W) as numbers from -1 to 1, in the network's precision."""
    return images.to(next(network.parameters()).dtype) / 127.5 - 1


def _add(result: Result, name: str, pixels: int, runs: dict[str, list[Learned]], exact: list[list[float]]) -> None:
    (_, ours), (source, theirs) = runs.items()
    for who, group in runs.items():
        last = float(np.mean([run.losses[-LAST_STEPS:] for run in group]))
        result.add({"network": name, "of": who}, "top-1, %", [run.top1 for run in group], pixels=pixels, last_loss=last)
    alike = next((step for step, (a, b) in enumerate(zip(*exact)) if not abs(a - b) <= SAME * b), len(exact[0]))
    result.add(
        {"network": name, "of": f"ours minus {source}'s"}, "points of top-1",
        [one.top1 - other.top1 for one, other in zip(ours, theirs)], fp64=f"same losses for {alike} of {len(exact[0])} steps",
    )  # fmt: skip


if __name__ == "__main__":
    study.start()
