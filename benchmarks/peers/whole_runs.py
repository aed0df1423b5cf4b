"""Whole trainings as processes of their own, and what they report about their time: ours, another commit's, the peers'."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.measuring import ROOT, BenchmarkError
from benchmarks.measuring.processes import finished, own_environment
from benchmarks.peers.networks import NETWORK_PEERS
from engine.config.options import Config
from engine.distributed.device import compute_dtype
from engine.training.schedules import peak_learning_rate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_SPEED = re.compile(r"Train: .*?([\d.]+)/s")  # what timm's train.py says while it trains


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
    is our network's metadata. Each `train` raises BenchmarkError when it fails."""

    name: str
    config: Config
    data: Path
    network: dict[str, Any]
    target: float
    workers: int

    @property
    def lr(self) -> float:
        """The learning rate at the batch of `config`."""
        return peak_learning_rate(self.config.data.batch_size, self.config.optimizer)

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
        """Trains; leaves nothing in `folder`."""
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


@dataclass(frozen=True)
class TimmTraining(PeerTraining):
    """timm's train.py in the source tree `source`, with the settings of `config` that it knows."""

    source: Path

    def __post_init__(self) -> None:
        if not (self.source / "train.py").is_file():
            raise BenchmarkError(f"{self.source} holds no train.py; --timm names a clone of timm's source")
        if self.config.network.name not in NETWORK_PEERS["timm"]:
            known = ", ".join(NETWORK_PEERS["timm"])
            raise BenchmarkError(f"timm has no {self.config.network.name}; of this family it has {known}")

    def train(self, seed: int, folder: Path) -> Run:
        """Trains until the target is reached or the epochs are over, and reads its words as they come, and its summary, which
        has a row for each evaluation."""
        began, trained, evaluating, last = 0.0, 0.0, 0.0, "it said nothing"
        speeds: list[float] = []
        curve: list[tuple[float, float]] = []
        summary, started = folder / "timm" / "summary.csv", time.monotonic()
        with subprocess.Popen(
            [sys.executable, "train.py", *map(str, self.arguments(seed, folder))], cwd=self.source, env=own_environment(),
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            for line in process.stdout or ():
                last, now = line.strip() or last, time.monotonic()
                rows = list(csv.DictReader(summary.read_text().splitlines())) if began and summary.exists() else []
                for row in rows[len(curve) :]:
                    curve.append((now - began, float(row["eval_top1"])))
                    evaluating += now - trained
                if "Scheduled epochs" in line:
                    began = now
                elif speed := _SPEED.search(line):
                    trained = now
                    speeds.append(float(speed[1]))
                if curve and curve[-1][1] >= self.target:
                    os.killpg(process.pid, signal.SIGTERM)  # its loaders' processes too
                    break
            wall = time.monotonic() - started
        reached = curve[-1][0] if curve and curve[-1][1] >= self.target else None
        if reached is None and process.returncode:
            raise BenchmarkError(f"{self.name} failed with status {process.returncode}: {last}")
        if not curve:
            raise BenchmarkError("timm's train.py ended without an evaluation")
        best, rate = max(top1 for _, top1 in curve), median(speeds or [0.0])
        return Run(seed, wall, began - started, 0.0, evaluating, reached, best, rate, curve)

    def arguments(self, seed: int, folder: Path) -> list[Any]:
        """train.py's options."""
        config, network, optimizer = self.config, self.network, self.config.optimizer
        arguments = [
            "--data-dir", self.data, "--train-split", "train", "--val-split", "val", "--device", DEVICE,
            "--model", config.network.name, "--num-classes", network["num_classes"], "--img-size", self.size,
            "--batch-size", config.data.batch_size, "--epochs", config.schedule.epochs, "--cooldown-epochs", 0,
            "--warmup-epochs", round(config.schedule.warmup_epochs),
            "--sched", "cosine", "--lr", self.lr, "--warmup-lr", self.lr / 100, "--min-lr", 0,
            "--opt", "sgd", "--momentum", optimizer.in_effect()["momentum"], "--weight-decay", optimizer.weight_decay,
            "--smoothing", config.loss.label_smoothing, "--mean", *network["mean"], "--std", *network["std"],
            "--crop-pct", network["crop_fraction"], "--scale", *config.data.crop_scale, "--color-jitter", 0,
            "--interpolation", "bilinear", "--train-interpolation", "bilinear", "--workers", self.workers, "--seed", seed,
            "--channels-last", "--log-interval", 10, "--output", folder, "--experiment", "timm",
        ]  # fmt: skip
        arguments += ["--amp", "--amp-dtype", "bfloat16"] if self.bf16 else []
        arguments += ["--torchcompile"] if config.compile.enabled is True else []
        decay = config.ema.decay_of_step(config.data.batch_size)
        return arguments + (["--model-ema", "--model-ema-decay", decay] if config.ema.averages else [])


def run_from_rows(seed: int, wall: float, rows: Sequence[dict[str, Any]]) -> Run:
    """A run from the rows of its metrics.jsonl and the seconds that its process took."""
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("train", "eval", "event", "end")}
    if not kinds["end"]:
        raise BenchmarkError("the training ended without an end row in metrics.jsonl")
    end = kinds["end"][-1]
    rates = sorted(row["images_per_second"] for row in kinds["train"])
    compiling = sum(row["seconds"] for row in kinds["event"] if row.get("event") == "compiled")
    evaluating = sum(row.get("seconds", 0.0) for row in kinds["eval"])
    curve = [(row["time"], row["top1"]) for row in kinds["eval"]]
    starting, rate = max(0.0, wall - end["time"]), rates[len(rates) // 2] if rates else 0.0
    return Run(seed, wall, starting, compiling, evaluating, end["seconds_to_target"], end["best_top1"], rate, curve)


def _rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
