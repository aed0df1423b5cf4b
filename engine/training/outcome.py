"""How a run ended."""

from dataclasses import dataclass
from pathlib import Path

from engine.faults.exit_status import DONE, PREEMPTED


@dataclass(frozen=True)
class Outcome:
    """What `Trainer.fit` returns.

    reason: completed (all epochs), target (the accuracy asked for), stopped early (no better accuracy for as long as
    `schedule.stop_after` says), preempted (asked to stop; the same command continues). best_top1: percent, -1 when
    nothing was evaluated. step: optimizer steps done. seconds: the run's time, interruptions left out. weights: the file of
    the best weights.
    """

    reason: str
    best_top1: float
    step: int
    seconds: float
    weights: Path

    @property
    def status(self) -> int:
        """The exit status that says so."""
        return PREEMPTED if self.reason == "preempted" else DONE
