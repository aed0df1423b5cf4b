"""One start that restart.py measures: what engine/train.py does, up to the end of the first step.

    python benchmarks/costs/restart_worker.py FILE BEGAN OPTION...

FILE gets the seconds by part as JSON; BEGAN is the time at which the process was started; the options are of engine/train.py.
"""

import contextlib
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


class FirstStep(Exception):
    """The first step is done."""


class Marks(Hook):
    """Notes when compiling began and ended, and when the first step was done, with which it ends the run."""

    def __init__(self, marks: list[float]):
        self._marks = marks

    def on_row(self, run: Run, row: dict[str, Any]) -> None:
        if row.get("event") == "compiled":
            self._marks += [time.time() - row["seconds"], time.time()]

    def on_step(self, run: Run) -> None:
        self._marks.append(time.time())
        raise FirstStep


def main(file: Path, began: float, arguments: list[str]) -> None:
    marks = [began, time.time()]
    trainer = Trainer(assemble(load_config(arguments), hooks=[Marks(marks)]))
    with contextlib.suppress(FirstStep):
        trainer.fit()
    names = ("imports", "network and data", "compiling", "first step")
    seconds = {name: end - begin for name, begin, end in zip(names, marks, marks[1:])}
    file.write_text(json.dumps(seconds | {"to the first step": marks[-1] - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
    os._exit(0)
