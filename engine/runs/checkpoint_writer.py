"""Checkpoints written while training goes on: a snapshot in memory, then the disk in the background."""

import concurrent.futures
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.faults.errors import TrainingFailed
from engine.runs.checkpoint_file import checkpoint_path, save_checkpoint
from engine.runs.retention import Retention
from inception import save_weights

# How long training stands still for the disk before it says so, and again with every repetition [seconds].
PATIENCE = 30.0


class CheckpointWriter:
    """Writes one file at a time; the training loop waits only when the disk is slower than the interval between saves,
    and says so when the wait is long.

    After each checkpoint those that `retention` does not want are removed; `scores` gives the accuracies by step. A write
    that fails (a full disk) leaves what was there before in place and is told to `report` (a short name of the event, a
    sentence); the second failure in a row ends the run with TrainingFailed.
    """

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        report: Callable[[str, str], None],
        scores: Callable[[], Mapping[int, float]] = dict,
    ):
        self._folder, self._retention, self._report, self._scores = folder, retention, report, scores
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[list[str]] | None = None
        self._what, self._failures = "", 0
        self.saved_step: int | None = None  # of the last checkpoint that is on the disk

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Saves `state` as it is now as the checkpoint of `step`, whose path it returns; what the caller changes later
        does not reach it."""
        self._write("a checkpoint", self._save, step, snapshot(state))
        return checkpoint_path(self._folder, step)

    def save_best(self, file: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Replaces the best weights of the run; they are on the disk when it returns. A first failure is tried again."""
        copy = snapshot(weights)
        for _ in range(2):
            self._write("the best weights", _save_best, file, copy, dict(metadata))
            if self.wait():
                return

    def remove_superfluous(self) -> None:
        """Removes, in the background, what an evaluation has made superfluous."""
        self._write("", self._remove_superfluous)

    def _save(self, step: int, state: dict[str, Any]) -> list[str]:
        save_checkpoint(self._folder, step, state)
        self.saved_step = step
        return self._remove_superfluous()

    def _remove_superfluous(self) -> list[str]:
        """What could not be removed, in words."""
        failures = []
        for path in self._retention.superfluous(self._folder, self._scores() if self._retention.best else {}):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                failures.append(f"the old checkpoint {path} could not be removed ({error.strerror})")
        return failures

    def _write(self, what: str, function: Callable[..., list[str]], *arguments: Any) -> None:
        self.wait()
        self._what = what
        self._pending = self._thread.submit(function, *arguments)

    def wait(self) -> bool:
        """Returns when everything is on the disk: whether the last write succeeded. Raises TrainingFailed when two writes in
        a row failed."""
        if self._pending is None:
            return True
        pending, self._pending = self._pending, None
        started = time.monotonic()
        while not concurrent.futures.wait([pending], timeout=PATIENCE).done:
            waited = time.monotonic() - started
            self._report(
                "slow disk", f"training waits for the disk: {waited:.0f} s for a checkpoint in {self._folder} so far"
            )
        try:
            for failure in pending.result():
                self._report("checkpoint not removed", failure)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            self._failures += 1
            reason = _in_words(error)
            if self._failures > 1:
                raise TrainingFailed(
                    f"two checkpoints in a row could not be written to {self._folder} ({reason}); "
                    "make room or repair the disk, then start again: the run resumes at the last one written"
                ) from None
            before = "the one before it is" if self._what == "a checkpoint" else "those before them are"
            self._report(
                "checkpoint failed", f"{self._what} could not be written to {self._folder} ({reason}); {before} kept"
            )
            return False
        if self._what:
            self._failures = 0
        return True

    def close(self) -> None:
        """Ends the background thread after its last write."""
        self._thread.shutdown()


def _save_best(file: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> list[str]:
    save_weights(file, weights, metadata)
    return []


def _in_words(error: OSError | RuntimeError) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error).partition("\n")[0] or type(error).__name__


def snapshot(state: Any) -> Any:
    """A copy of nested dicts and lists with every tensor on the CPU in memory of its own."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, list):
        return [snapshot(value) for value in state]
    return state
