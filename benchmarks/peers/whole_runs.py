"""Whole trainings as processes of their own, and what they report about their time: ours, another commit's, the peer's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring.command_line import BenchmarkError
from benchmarks.measuring.machine import ROOT
from engine.config.options import Config
from engine.distributed.device import use_bf16


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
class Contestant:
    """Something that trains to a target. `root` is the source tree that runs; `arguments` are the training's options."""

    name: str
    arguments: tuple[str, ...]
    root: Path = ROOT
    ranks: int = 1

    def train(self, seed: int, folder: Path) -> Run:
        """Trains in `folder`. Raises BenchmarkError with the training's own last words when it fails."""
        command = [sys.executable]
        if self.ranks > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.ranks}"]
        command += [
            str(self.root / "engine/train.py"),
            *self.arguments,
            "--run.dir",
            str(folder),
            "--run.seed",
            str(seed),
        ]
        wall, _ = _finished(command, self.name)
        return run_from_rows(seed, wall, _rows((folder / "metrics.jsonl").read_text().splitlines()))


@dataclass(frozen=True)
class ReferenceLoop:
    """The minimal PyTorch training (peers/train.py) with the same network, data, batch and schedule as `config`.
    `network` is the network's metadata."""

    name: str
    config: Config
    data: Path
    network: dict[str, Any]
    target: float
    workers: int

    def train(self, seed: int, folder: Path) -> Run:
        """Trains; leaves nothing in `folder`. Raises BenchmarkError when it fails."""
        config, optimizer = self.config, self.config.optimizer
        batch = int(config.data.batch_size)
        lr = optimizer.lr * batch / optimizer.lr_batch_size if optimizer.lr_batch_size else optimizer.lr
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        arguments = [
            "--data", self.data, "--network", config.network.name, "--options", json.dumps(self.network["options"]),
            "--batch-size", batch,
            "--resolution", config.data.resolution or self.network["input_size"],
            "--crop-fraction", self.network["crop_fraction"], "--crop-scale", *config.data.crop_scale,
            "--mean", *self.network["mean"], "--std", *self.network["std"],
            "--epochs", config.schedule.epochs, "--warmup-epochs", config.schedule.warmup_epochs,
            "--lr", lr, "--weight-decay", optimizer.weight_decay,
            "--label-smoothing", config.loss.label_smoothing, "--workers", self.workers,
            "--target", self.target, "--seed", seed, *(["--bf16"] if use_bf16(config.precision, device) else []),
        ]  # fmt: skip
        command = [sys.executable, str(ROOT / "benchmarks/peers/train.py"), *map(str, arguments)]
        wall, output = _finished(command, self.name)
        *epochs, end = _rows(output.splitlines())
        return Run(
            seed=seed,
            wall=wall,
            starting=wall - end["seconds"],
            compiling=0.0,
            evaluating=end["evaluation_seconds"],
            to_target=end["seconds_to_target"],
            best=end["best_top1"],
            images_per_second=end["images_per_second"],
            curve=[(epoch["seconds"], epoch["top1"]) for epoch in epochs],
        )


def run_from_rows(seed: int, wall: float, rows: Sequence[dict[str, Any]]) -> Run:
    """A run from the rows of its metrics.jsonl and the seconds that its process took."""
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("train", "eval", "event", "end")}
    if not kinds["end"]:
        raise BenchmarkError("the training ended without an end row in metrics.jsonl")
    end = kinds["end"][-1]
    compiled = [row["seconds"] for row in kinds["event"] if row.get("event") == "compiled"]
    rates = sorted(row["images_per_second"] for row in kinds["train"])
    return Run(
        seed=seed,
        wall=wall,
        starting=max(0.0, wall - end["time"]),
        compiling=sum(compiled),
        evaluating=sum(row.get("seconds", 0.0) for row in kinds["eval"]),
        to_target=end["seconds_to_target"],
        best=end["best_top1"],
        images_per_second=rates[len(rates) // 2] if rates else 0.0,
        curve=[(row["time"], row["top1"]) for row in kinds["eval"]],
    )


def _finished(command: Sequence[str], name: str) -> tuple[float, str]:
    """Seconds and output of a process that ends well."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=own_environment(), stdin=subprocess.DEVNULL)
    wall = time.monotonic() - started
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        last = (errors or done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchmarkError(f"{name} failed with status {done.returncode}: {last.removeprefix('error: ')}")
    return wall, done.stdout


def own_environment() -> dict[str, str]:
    """This process's variables but a launcher's, which would make a training believe that it is one rank of that job."""
    return {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}


def _rows(lines: Sequence[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines if line.startswith("{")]
