"""Whether a run still improves: what the plateau schedule and early stopping go by."""

from collections.abc import Mapping
from typing import Any

from engine.config.options import ScheduleConfig


class Improvement:
    """Counts the evaluations that brought no better accuracy than the best one before, the same on every rank.

    best: the highest accuracy, percent, -1 before the first; since_best: evaluations after it; lowered: how often the plateau
    schedule has lowered the learning rate.
    """

    def __init__(self, schedule: ScheduleConfig, warmup_steps: float = 0):
        self._schedule, self._warmup_steps = schedule, warmup_steps
        self.best, self.since_best, self.lowered = -1.0, 0, 0
        self._step = -1  # of the last evaluation counted
        self._waited = 0  # evaluations since the best one, or since the rate was lowered after it

    def add(self, step: int, accuracy: float) -> bool:
        """Counts the evaluation after `step`, unless it is counted; whether the learning rate is lowered by it."""
        if step <= self._step:
            return False
        self._step = step
        if accuracy > self.best:
            self.best, self.since_best, self._waited = accuracy, 0, 0
            return False
        self.since_best += 1
        self._waited += step > self._warmup_steps  # the rate still rises until then
        if self._schedule.kind != "plateau" or self._waited < self._schedule.patience:
            return False
        self.lowered += 1
        self._waited = 0
        return True

    def catch_up(self, accuracies: Mapping[int, float]) -> None:
        """Counts what was evaluated, by step, after the checkpoint was written that the run goes on from."""
        for step, accuracy in sorted(accuracies.items()):
            self.add(step, accuracy)

    @property
    def has_stopped(self) -> bool:
        """Whether the run is to end, as `schedule.stop_after` says."""
        return 0 < self._schedule.stop_after <= self.since_best

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best, "since_best": self.since_best, "lowered": self.lowered, "step": self._step,
            "waited": self._waited,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.since_best, self.lowered = state["best"], state["since_best"], state["lowered"]
        self._step, self._waited = state["step"], state["waited"]
