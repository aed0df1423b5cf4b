"""One start that restart.py measures: what engine/train.py does, up to the end of the first step.

    python benchmarks/costs/restart_worker.py FILE BEGAN OPTION...

FILE gets the seconds by part as JSON; BEGAN is the time at which the process was started; the options are of engine/train.py.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from engine.config.command_line import load_config
from engine.monitoring.hooks import Hook
from engine.training.assembly import Run, assemble
from engine.training.trainer import Trainer

PARTS = ("imports", "network and data", "compiling", "first step")


class Marks(Hook):
    """Notes when compiling began and ended; when the first step is done, writes the parts and ends the process."""

    def __init__(self, file: Path, began: float):
        self._file, self._marks = file, [began, time.time()]

    def on_row(self, run: Run, row: dict[str, Any]) -> None:
        if row.get("event") == "compiled":
            self._marks += [time.time() - row["seconds"], time.time()]

    def on_step(self, run: Run) -> None:
        marks = [*self._marks, time.time()]
        seconds = {part: end - begin for part, begin, end in zip(PARTS, marks, marks[1:])}
        self._file.write_text(json.dumps(seconds | {"to the first step": marks[-1] - marks[0]}))
        os._exit(0)


if __name__ == "__main__":
    marks = Marks(Path(sys.argv[1]), float(sys.argv[2]))
    Trainer(assemble(load_config(sys.argv[3:]), hooks=[marks])).fit()
