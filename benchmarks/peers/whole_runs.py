"""Whole trainings as processes of their own, and what they report about their time: ours, another commit's, the peer's."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import ROOT, BenchmarkError
from benchmarks.measuring.processes import finished
from engine.config.options import Config
from engine.distributed.device import compute_dtype

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Run:
    """One training with one seed. Seconds: `to_target` since the training process took up its work (None: not reached),
    of which `compiling` and `evaluating` are parts; `starting` is what came before, imports above all; `wall` everything.
    `curve`: (seconds, top-1 in percent) of every evaluation."""

    seed: int
    wall: float
    starting: float
    compiling: float
    evaluating: float
    to_target: float | None
    best: float
    images_per_second: float
    curve: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class OwnTraining:
    """engine/train.py of the source tree `root` with these `arguments`."""

    name: str
    arguments: tuple[str, ...]
    root: Path = ROOT

    def train(self, seed: int, folder: Path) -> Run:
        """Trains in `folder`. Raises BenchmarkError with the training's own last words when it fails."""
        command = [sys.executable, self.root / "engine/train.py", *self.arguments]
        wall, _ = finished([*command, "--run.dir", folder, "--run.seed", seed], self.name)
        return run_from_rows(seed, wall, _rows((folder / "metrics.jsonl").read_text()))


@dataclass(frozen=True)
class PeerTraining:
    """Another project's training of the network, data, batch and schedule of `config`, to a `target` in percent. `network`
    is our network's metadata."""

    name: str
    config: Config
    data: Path
    network: dict[str, Any]
    target: float
    workers: int

    @property
    def lr(self) -> float:
        """The learning rate at the batch of `config`."""
        optimizer, batch = self.config.optimizer, self.config.data.batch_size
        return optimizer.lr * batch / optimizer.lr_batch_size if optimizer.lr_batch_size else optimizer.lr

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.config.data.resolution or self.network["input_size"]

    @property
    def bf16(self) -> bool:
        return compute_dtype(self.config.precision, torch.device(DEVICE)) == torch.bfloat16


class ReferenceLoop(PeerTraining):
    """The minimal PyTorch training (peers/train.py)."""

    def train(self, seed: int, folder: Path) -> Run:
        """Trains; leaves nothing in `folder`. Raises BenchmarkError when it fails."""
        config, network = self.config, self.network
        settings = {
            "data": str(self.data), "network": config.network.name, "options": network["options"], "resolution": self.size,
            "batch_size": config.data.batch_size, "crop_scale": config.data.crop_scale,
            "crop_fraction": network["crop_fraction"], "mean": network["mean"], "std": network["std"],
            "epochs": config.schedule.epochs, "warmup_epochs": config.schedule.warmup_epochs, "lr": self.lr,
            "weight_decay": config.optimizer.weight_decay, "label_smoothing": config.loss.label_smoothing,
            "workers": self.workers, "target": self.target, "seed": seed, "bf16": self.bf16,
        }  # fmt: skip
        script = ROOT / "benchmarks/peers/train.py"
        wall, output = finished([sys.executable, script, json.dumps(settings)], self.name)
        *epochs, end = _rows(output)
        return Run(
            seed, wall, wall - end["seconds"], 0.0, end["evaluation_seconds"], end["seconds_to_target"], end["best_top1"],
            end["images_per_second"], [(epoch["seconds"], epoch["top1"]) for epoch in epochs],
        )  # fmt: skip


def run_from_rows(seed: int, wall: float, rows: Sequence[dict[str, Any]]) -> Run:
    """A run from the rows of its metrics.jsonl and the seconds that its process took."""
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("train", "eval", "event", "end")}
    if not kinds["end"]:
        raise BenchmarkError("the training ended without an end row in metrics.jsonl")
    end = kinds["end"][-1]
    rates = sorted(row["images_per_second"] for row in kinds["train"])
    return Run(
        seed=seed,
        wall=wall,
        starting=max(0.0, wall - end["time"]),
        compiling=sum(row["seconds"] for row in kinds["event"] if row.get("event") == "compiled"),
        evaluating=sum(row.get("seconds", 0.0) for row in kinds["eval"]),
        to_target=end["seconds_to_target"],
        best=end["best_top1"],
        images_per_second=rates[len(rates) // 2] if rates else 0.0,
        curve=[(row["time"], row["top1"]) for row in kinds["eval"]],
    )


def _rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
