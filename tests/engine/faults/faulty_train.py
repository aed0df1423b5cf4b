"""engine/train.py with something going wrong: FAULT (a function here) happens on rank FAULT_RANK in step FAULT_STEP."""

import ctypes
import os
import sys
import time

from engine.faults.exit_status import run_entry_point
from engine.train import main
from engine.training.trainer import Trainer


def raises() -> None:
    raise ArithmeticError("broken on purpose")


def hangs() -> None:
    time.sleep(10_000)


def hangs_with_pythons_lock() -> None:
    ctypes.PyDLL(None).sleep(10_000)  # a C function that keeps the lock, as a bug in compiled code would


def arm() -> None:
    """The fault strikes where the training loop asks the loader for its next batch."""
    fault, step, original = globals()[os.environ["FAULT"]], int(os.environ["FAULT_STEP"]), Trainer._next_batch

    def struck(batches):
        fault()
        yield from batches

    def next_batch(self, batches):
        return original(self, struck(batches) if self.state.step == step else batches)

    if os.environ["FAULT_RANK"] == os.environ.get("RANK", "0"):
        Trainer._next_batch = next_batch


if __name__ == "__main__":
    arm()
    sys.argv[0] = "engine/train.py"
    run_entry_point(main)
