"""How far a run is: its place in data and time, and the steps since the last row."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from engine.distributed.communicator import Communicator


class Progress:
    """The few numbers that say how far a run is.

    step: optimizer steps done; samples_seen: images handed out over all ranks, which is the place in the data;
    best_top1: percent, -1 before the first evaluation; rollbacks: returns to a checkpoint after numbers that were not finite;
    seconds: the time the run has taken, interruptions left out.
    """

    def __init__(self, samples_per_epoch: int):
        self._samples_per_epoch = samples_per_epoch
        self.step = 0
        self.samples_seen = 0
        self.best_top1 = -1.0
        self.rollbacks = 0
        self._started, self._seconds_before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    @property
    def epoch(self) -> int:
        """The epoch of the next step, counted from 0."""
        return self.samples_seen // self._samples_per_epoch

    @property
    def at_epoch_end(self) -> bool:
        """Whether the step just done was the last of its epoch."""
        return self.samples_seen % self._samples_per_epoch == 0

    def advance(self, images: int) -> None:
        """One more optimizer step, over `images` images of all ranks, is done."""
        self.step += 1
        self.samples_seen += images

    def position(self) -> dict[str, Any]:
        """Where the run stands, as every row of metrics.jsonl begins."""
        return {
            "step": self.step,
            "epoch": round(self.samples_seen / self._samples_per_epoch, 4),
            "samples": self.samples_seen,
            "time": round(self.seconds, 3),
        }

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("step", "samples_seen", "best_top1", "rollbacks", "seconds")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.samples_seen = state["step"], state["samples_seen"]
        self.best_top1, self._seconds_before = state["best_top1"], state["seconds"]
        self.rollbacks = state.get("rollbacks", 0)


class RecentSteps:
    """Loss and share of right answers of the `count` steps since the last row, kept on the device so that no step waits."""

    def __init__(self, communicator: Communicator):
        self._communicator = communicator
        self.count, self.waited = 0, 0.0  # steps; seconds that `means` waited last for the other ranks
        self._steps: list[Tensor] = []
        self._resumed = torch.zeros(0, 2, dtype=torch.float64, device=communicator.device)

    def add(self, values: Tensor) -> None:
        """Adds a step's (loss, share of right answers) on this rank, float32 (2,) on the device."""
        self._steps.append(values)
        self.count += 1

    def means(self) -> list[list[float]]:
        """(loss, share of right answers) of each step over all ranks. Every rank must call it; waits for the device."""
        values = self._resumed.clone()
        if self._steps:
            values = torch.cat([values, torch.stack(self._steps).double()])
        # Else waiting for the steps would count as waiting for other ranks.
        if values.is_cuda and self._communicator.world_size > 1:
            torch.cuda.current_stream(values.device).synchronize()
        asked = time.monotonic()
        means = (self._communicator.sum(values) / self._communicator.world_size).tolist()
        self.waited = time.monotonic() - asked
        return means

    def clear(self) -> None:
        """Starts the next row."""
        self.count = 0
        self._steps.clear()
        self._resumed = self._resumed[:0]

    def state_dict(self) -> dict[str, Any]:
        """The means of the steps since the last row. Every rank must call it."""
        return {"means": self.means()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave in an earlier run, on any number of ranks."""
        means = state["means"]
        self.clear()
        self.count = len(means)
        # The sum over the ranks divides by their number again: the first one holds all of it.
        share = float(self._communicator.world_size) if self._communicator.is_main else 0.0
        self._resumed = torch.tensor(means, dtype=torch.float64, device=self._resumed.device).reshape(-1, 2) * share


def first_not_finite(means: list[list[float]]) -> int | None:
    """The position of the first step whose loss is NaN or infinite."""
    return next((position for position, (loss, _) in enumerate(means) if not math.isfinite(loss)), None)
