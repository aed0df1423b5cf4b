"""A dataset of a few images, and the options of a run over it that takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tars
from engine.faults.stop_request import STOP_SIGNALS
from pipelines import sample_path

ROOT = Path(__file__).resolve().parents[2]
TRAIN, VAL = 96, 30
# 8 epochs' worth of steps would take minutes on large networks; the debug network takes 20 ms a step.
TINY_RUN = {
    "network.name": "debug",
    "precision": "fp32",
    "schedule.epochs": "2",
    "data.global_batch_size": "16",
    "data.batch_size": "16",
    "optimizer.lr": "0.02",
    "ema.decay": "0.9",
    "monitor.every_steps": "1",
}


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 96 training and 30 validation images of ten classes: six steps of 16 an epoch."""
    root = tmp_path_factory.mktemp("tiny")
    for split, count in (("train", TRAIN), ("val", VAL)):
        tars.unpack(Path(sample_path()) / f"{split}-000.tar", root / split, count)
    return root


@pytest.fixture(scope="session")
def tiny_run_in(tiny_dataset: Path):
    """``tiny_run_in(folder, **options) -> list of arguments`` of engine/train.py for a run in ``folder``."""

    def arguments(folder: Path, **options: Any) -> list[str]:
        chosen = {"data.path": tiny_dataset, "run.dir": folder, **TINY_RUN}
        chosen |= {key.replace("__", "."): value for key, value in options.items()}
        return ["engine/train.py", *(part for key, value in chosen.items() for part in (f"--{key}", str(value)))]

    return arguments


@pytest.fixture
def tiny_run(tiny_run_in, tmp_path: Path):
    """``tiny_run(name, **options)``: the same in ``tmp_path / name``."""
    return lambda name="run", **options: tiny_run_in(tmp_path / name, **options)


@pytest.fixture(scope="session")
def real_run(tiny_run_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of two tiny epochs with a profile of three steps; what it printed is in ``../stdout``."""
    folder = tmp_path_factory.mktemp("real")
    script, *arguments = tiny_run_in(folder / "run", profile__steps=3, profile__wait=2)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with (folder / "stdout").open("w") as stdout:
        subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            stdout=stdout, stderr=subprocess.STDOUT, env=environment, cwd=folder, check=True,
        )  # fmt: skip
    return folder / "run"


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """What a run that was asked to stop leaves ignored is heard again afterwards."""
    kept = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
