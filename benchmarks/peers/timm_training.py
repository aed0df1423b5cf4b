"""timm's train.py as a process of its own: the same network, data, batch, schedule and target, and what it reports."""

import csv
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import BenchmarkError
from benchmarks.measuring.processes import own_environment
from benchmarks.peers.networks import NETWORK_PEERS
from benchmarks.peers.whole_runs import DEVICE, PeerTraining, Run

_SPEED = re.compile(r"Train: .*?([\d.]+)/s")


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
        """Trains until the target is reached or the epochs are over. Raises BenchmarkError when it fails."""
        command = [sys.executable, "train.py", *map(str, self.arguments(seed, folder))]
        watch = _Watch(folder / "timm" / "summary.csv", self.target)
        with subprocess.Popen(
            command, cwd=self.source, env=own_environment(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            last = watch.follow(process.stdout)
            wall = time.monotonic() - watch.started
            if watch.to_target is not None:
                os.killpg(process.pid, signal.SIGTERM)  # its loaders' processes too
        if watch.to_target is None and process.returncode:
            raise BenchmarkError(f"{self.name} failed with status {process.returncode}: {last}")
        return watch.run(seed, wall)

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


@dataclass
class _Watch:
    """Reads the words of a train.py as they come, and its summary, which has a row for each evaluation."""

    summary: Path
    target: float
    started: float = field(default_factory=time.monotonic)
    began: float | None = None
    trained: float = 0.0
    evaluating: float = 0.0
    speeds: list[float] = field(default_factory=list)
    curve: list[tuple[float, float]] = field(default_factory=list)
    to_target: float | None = None

    def follow(self, lines: Iterable[str]) -> str:
        """Reads until the target is reached or the end; returns the last line that says something."""
        last = "it said nothing"
        for line in lines:
            last = line.strip() or last
            now = time.monotonic()
            self._take_rows(now)
            if "Scheduled epochs" in line:
                self.began = now
            elif speed := _SPEED.search(line):
                self.trained = now
                self.speeds.append(float(speed[1]))
            if self.to_target is not None:
                break
        return last

    def _take_rows(self, now: float) -> None:
        if self.began is None or not self.summary.exists():
            return
        with self.summary.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows[len(self.curve) :]:
            self.curve.append((now - self.began, float(row["eval_top1"])))
            self.evaluating += now - self.trained
            if self.curve[-1][1] >= self.target:
                self.to_target = now - self.began

    def run(self, seed: int, wall: float) -> Run:
        """What was seen. Raises BenchmarkError if that is no training."""
        if self.began is None or not self.curve:
            raise BenchmarkError("timm's train.py ended without an evaluation")
        speed = statistics.median(self.speeds) if self.speeds else 0.0
        best, starting = max(top1 for _, top1 in self.curve), self.began - self.started
        return Run(seed, wall, starting, 0.0, self.evaluating, self.to_target, best, speed, self.curve)
