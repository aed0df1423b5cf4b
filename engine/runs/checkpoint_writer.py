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
from inception import save_weights

# How long training stands still for the disk before it says so, and again with every repetition [seconds].
PATIENCE = 30.0


class CheckpointWriter:
    """Writes one file at a time; the training loop waits only when the disk is slower than the interval between saves,
    and says so when the wait is long.

    A write that fails (a full disk) leaves what was there before in place and is told to `report` (a short name of the
    event, a sentence); the second failure in a row ends the run with TrainingFailed.
    """

    def __init__(self, folder: Path, keep: int, report: Callable[[str, str], None]):
        self._folder, self._keep, self._report = folder, keep, report
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[Any] | None = None
        self._failures = 0

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Saves `state` as it is now as the checkpoint of `step`, whose path it returns; what the caller changes later
        does not reach it."""
        self._write(save_checkpoint, self._folder, step, snapshot(state), self._keep)
        return checkpoint_path(self._folder, step)

    def save_best(self, file: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Replaces the best weights of the run."""
        self._write(save_weights, file, snapshot(weights), dict(metadata))

    def _write(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.wait()
        self._pending = self._thread.submit(function, *arguments)

    def wait(self) -> None:
        """Returns when everything is on the disk. Raises TrainingFailed when two writes in a row failed."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        started = time.monotonic()
        while not concurrent.futures.wait([pending], timeout=PATIENCE).done:
            waited = time.monotonic() - started
            self._report(
                "slow disk", f"training waits for the disk: {waited:.0f} s for a checkpoint in {self._folder} so far"
            )
        try:
            pending.result()
            self._failures = 0
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            self._failures += 1
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            if self._failures > 1:
                raise TrainingFailed(
                    f"two checkpoints in a row could not be written to {self._folder} ({reason}); "
                    "make room or repair the disk, then start again: the run resumes at the last one written"
                ) from None
            self._report(
                "checkpoint failed",
                f"a checkpoint could not be written to {self._folder} ({reason}); the one before it is kept",
            )

    def close(self) -> None:
        """Ends the background thread after its last write."""
        self._thread.shutdown()


def snapshot(state: Any) -> Any:
    """A copy of nested dicts and lists with every tensor on the CPU in memory of its own."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, list):
        return [snapshot(value) for value in state]
    return state
