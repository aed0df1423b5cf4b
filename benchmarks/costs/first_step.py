"""A hook that ends a training when its first step is done, and leaves in the run directory when that was: for restart.py."""

import json
import os
import time
from typing import Any

import psutil

from engine.monitoring.hooks import Hook
from engine.training.assembly import Run

FILE = "seconds.json"
PARTS = ("imports", "network and data", "compiling", "first step")


class Marks(Hook):
    """Notes when the process began, had imported, compiled, and done its first step; FILE gets the seconds by part."""

    def __init__(self) -> None:
        self._marks = [psutil.Process().create_time(), time.time()]

    def on_row(self, run: Run, row: dict[str, Any]) -> None:
        if row.get("event") == "compiled":
            self._marks += [time.time() - row["seconds"], time.time()]

    def on_step(self, run: Run) -> None:
        marks = [*self._marks, time.time()]
        seconds = {part: end - begin for part, begin, end in zip(PARTS, marks, marks[1:])}
        (run.directory.path / FILE).write_text(json.dumps(seconds | {"to the first step": marks[-1] - marks[0]}))
        os._exit(0)
