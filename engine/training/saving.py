"""When a run saves, by `config.checkpoint`; nothing is saved that is not finite, or said to be saved that is not."""

import time
from typing import Any

from engine.faults.errors import TrainingFailed
from engine.training.assembly import Run
from engine.training.finiteness import all_finite, diverged, require_finite


class Saver:
    """Writes the checkpoints of a run. Every rank must have one and call each method that says so.

    is_old: whether the ranks agreed that the last checkpoint is old enough for another, as `looks_old` says on each.
    """

    def __init__(self, run: Run):
        self._run = run
        self.is_old = False
        self.begin()

    def begin(self) -> None:
        """Counts from now on: training starts."""
        self._last = time.monotonic()

    @property
    def looks_old(self) -> bool:
        """Whether the last checkpoint is old enough by this rank's clock, which need not agree with that of others."""
        seconds = self._run.config.checkpoint.every_seconds
        return seconds is not None and time.monotonic() - self._last >= seconds

    def is_due(self, evaluated: bool = False) -> bool:
        """Whether the step just done is to be saved; `evaluated`: whether an evaluation follows. The same on every rank."""
        run, policy = self._run, self._run.config.checkpoint
        if self.is_old or (policy.every_steps and run.progress.step % policy.every_steps == 0):
            return True
        if not run.progress.at_epoch_end:
            return False
        done, wanted = run.progress.epoch, (policy.every_epochs, policy.keep_every_epochs)
        last = done == run.config.schedule.epochs
        return last or (evaluated and policy.keep_best > 0) or any(every and done % every == 0 for every in wanted)

    def state(self) -> dict[str, Any]:
        """What the run is at this step. Every rank must call it. Raises Diverged when a number in it is not finite."""
        run = self._run
        state = run.state.state_dict()
        require_finite(run, state["recent"]["means"])
        if not run.communicator.from_first(lambda: all_finite(state)):
            raise diverged(run, "the weights or the optimizer's state became infinite or NaN", run.progress.step)
        return state

    def save(self) -> None:
        """Begins a checkpoint of this step; every rank must call it, and the first one writes, in the background."""
        run = self._run
        run.lock.require_held()
        state = self.state()
        self._last, self.is_old = time.monotonic(), False
        if run.communicator.is_main:
            path = run.writer.save(run.progress.step, state)
            run.hooks.save(run, path)

    def make_sure(self) -> None:
        """Returns once this step is on the disk. Every rank must call it. Raises TrainingFailed when that cannot be."""
        run = self._run

        def is_saved() -> bool:
            run.writer.wait()
            return run.writer.saved_step == run.progress.step

        for _ in range(2):  # a first failure is tried again, as everywhere
            if run.communicator.from_first(is_saved):
                return
            self.save()
        if not run.communicator.from_first(is_saved):
            raise TrainingFailed(
                f"the last checkpoint, of step {run.progress.step}, could not be written to {run.directory.checkpoints}; "
                "start again: the run resumes at the one before it"
            )
