"""engine/train.py with something going wrong: FAULT (a function here) happens on rank FAULT_RANK in step FAULT_STEP.

No second counts before the other ranks wait for that one: how long a loaded machine takes until then says nothing.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import engine.training.assembly
from engine.faults.exit_status import run_entry_point
from engine.faults.guard import Guard
from engine.faults.watchdog import Watchdog
from engine.train import main
from engine.training.trainer import Trainer

TIMEOUT = 6.0  # of the watchdog; the ranks' own connections keep the run's, so that it is the first to give up
AT_FAULT = os.environ.get("RANK", "0") in os.environ["FAULT_RANK"].split(",")
STEP = int(os.environ["FAULT_STEP"])


def raises() -> None:
    raise ArithmeticError("broken on purpose")


def hangs() -> None:
    time.sleep(10_000)


def hangs_with_pythons_lock() -> None:
    ctypes.PyDLL(None).sleep(10_000)  # a C function that keeps the lock, as a bug in compiled code would


def is_suspended() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)  # until the test continues it


class PatientWatchdog(Watchdog):
    """Watches from the moment on at which the others wait for the rank at fault."""

    def __init__(self, folder: Path, timeout: float, environment) -> None:
        self.others_wait = folder.parent / "others-wait"
        self._steps, self._watching = 0, False
        super().__init__(folder, TIMEOUT, environment)
        self._reports_patience = timeout

    def begin(self, what: str) -> None:
        super().begin(what)
        self._steps += what == "computing a training step"
        if not self._watching:
            self._deadline = None
        if self._steps == STEP + 1 and not AT_FAULT:
            self.others_wait.touch()
            self.watch()

    def watch(self) -> None:
        """Counts from now on; returns once the guard, which ends a process that keeps Python's lock, does so too."""
        armed, beat = threading.Event(), Guard.beat

        def noted(guard: Guard, watched: bool) -> None:
            beat(guard, watched)
            if watched:
                armed.set()

        Guard.beat = noted
        self._watching, self._first = True, False
        self._deadline = time.monotonic() + self._patience
        armed.wait()

    def rest(self) -> None:
        """Counts no more."""
        self._watching, self._deadline = False, None


def arm() -> None:
    """The fault strikes where the training loop asks the loader for its next batch."""
    fault, original = globals()[os.environ["FAULT"]], Trainer._next_batch
    engine.training.assembly.Watchdog = PatientWatchdog

    def struck(watchdog, batches):
        if fault in (hangs, hangs_with_pythons_lock):
            while not watchdog.others_wait.exists():
                time.sleep(0.01)
        if fault is not raises:
            watchdog.watch()
        fault()
        watchdog.rest()
        yield next(batches)

    def next_batch(self, batches):
        return original(self, struck(self.run.watchdog, batches) if self.run.progress.step == STEP else batches)

    if AT_FAULT:
        Trainer._next_batch = next_batch


if __name__ == "__main__":
    arm()
    sys.argv[0] = "engine/train.py"
    run_entry_point(main)
