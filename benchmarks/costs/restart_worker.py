"""One start that restart.py measures: what engine/train.py does, up to the end of the first step.

    python benchmarks/costs/restart_worker.py FILE BEGAN OPTION...

FILE gets the seconds by part as JSON; BEGAN is the time at which the process was started; the options are of engine/train.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from engine.config.command_line import load_config
from engine.training.trainer import Trainer
from launch.environment import detect


class FirstStep(Exception):
    """The first step is done."""


def main(file: Path, began: float, arguments: list[str]) -> None:
    marks = [began, time.time()]
    trainer = Trainer(load_config(arguments), detect())
    compile_all = trainer._compile

    def timed_compile() -> None:
        marks.append(time.time())
        compile_all()
        marks.append(time.time())

    def advance(epoch: int) -> None:
        raise FirstStep

    trainer._compile = timed_compile  # type: ignore[method-assign]
    trainer.monitor.advance = advance  # type: ignore[method-assign]
    try:
        trainer.run()
    except FirstStep:
        marks.append(time.time())
    names = ("imports", "network and data", "compiling", "first step")
    seconds = {name: end - begin for name, begin, end in zip(names, marks, marks[1:])}
    file.write_text(json.dumps(seconds | {"to the first step": marks[-1] - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
    sys.stdout.flush()
    os._exit(0)
