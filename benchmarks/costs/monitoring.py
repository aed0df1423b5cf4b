"""What watching a run costs it: the share of a training's time that goes to monitoring, by part.

    python benchmarks/costs/monitoring.py --network inception_v3 --steps 100

Trains as `engine/train.py` does, with every call of the monitoring timed, the timers' own cost included. A comparison of
whole runs with and without could not tell differences below a percent from the noise of a machine. On a GPU, times are by
the clock; on a CPU they are the CPU time of the loop's thread, so that other processes on the machine do not count.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks.measuring import positive, synthetic
from benchmarks.reporting import Result, Study
from engine.config.command_line import load_config
from engine.evaluation.findings import Findings
from engine.monitoring.monitor import Monitor
from engine.monitoring.phase_clock import PhaseClock
from engine.monitoring.recorder import Recorder
from engine.monitoring.report import writer
from engine.training.assembly import assemble
from engine.training.progress import RecentSteps
from engine.training.train_step import TrainStep
from engine.training.trainer import Trainer

PAGE, UPDATE, NORM = "the page, in the background", "update", "norm of the gradient"
# In the loop, by what they are for.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "a step's loss and accuracy": [(RecentSteps, "add")],
    "progress bar": [(Monitor, "advance")],
    "phase clock": [(PhaseClock, "begin"), (PhaseClock, "phase")],
    "rows": [(Recorder, "train_row"), (RecentSteps, "means")],
    "confusion and pictures": [(Findings, "add"), (Findings, "sum")],
    "handing over to the report": [(Monitor, "keep_findings"), (Monitor, "report")],
}
# The optimizer's step is no part of the monitoring, but for the norm of the gradient where that is asked for.
TIMED = {**PARTS, UPDATE: [(TrainStep, "update")]}


class Meter:
    """The seconds of each call of functions, by part; a timed function within a timed one counts once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._inside, self.calls = clock, False, defaultdict[str, list[float]](list)

    def timing(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """`function`, timed as a piece of `part`; as one of the norm where it is told to measure that."""

        def timed(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return function(*arguments, **options)
            self._inside, started = True, self._clock()
            try:
                return function(*arguments, **options)
            finally:
                self._inside = False
                self.calls[NORM if options.get("measure") else part].append(self._clock() - started)

        return timed

    def seconds(self) -> dict[str, float]:
        """By part. What the norms took is the difference of the medians with and without, times how often."""
        spent = {part: sum(calls) for part, calls in self.calls.items() if part not in (UPDATE, NORM)}
        plain, measured = self.calls[UPDATE], self.calls[NORM]
        extra = max(median(measured) - median(plain), 0.0) * len(measured) if plain and measured else 0.0
        return spent | {NORM: extra}


study = Study("monitoring", __doc__, network="debug", batch_size=64, set=[])
study.option("--steps", type=positive, default=200, help="training steps, in two epochs")


@study
def main(options: Any, result: Result) -> list[str]:
    clock = time.perf_counter if torch.cuda.is_available() else time.thread_time
    # The page is written in another thread, and counts the CPU time of that.
    loop, background = Meter(clock), Meter(time.thread_time)
    epochs = max(2, round(options.steps * options.batch_size / 4000))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        told = [*synthetic(folder, options.network, options.batch_size), f"--schedule.epochs={epochs}", *options.set]
        config = load_config(["--recipe=sample", "--evaluation.batch_size=100", *told])
        config.run.target_top1 = None
        trainer = Trainer(assemble(config))
        timed = [(loop, part, *function) for part, functions in TIMED.items() for function in functions]
        for meter, part, owner, name in [*timed, (background, PAGE, writer, "write_report")]:
            stack.enter_context(mock.patch.object(owner, name, meter.timing(getattr(owner, name), part)))
        started = clock()
        steps = trainer.fit().step
        seconds = clock() - started
    spent = loop.seconds()
    page = {PAGE: sum(background.calls[PAGE])}
    for part, share in {**spent, **page, "all in the loop": sum(spent.values())}.items():
        case, microseconds = {"network": options.network, "part": part}, 1e6 * share / steps
        shown = {"higher_is_better": False, "microseconds_a_step": microseconds}
        result.add(case, "% of the run's time", 100 * share / seconds, **shown)
    result.note(f"{steps} steps in {seconds:.1f} s, {1e3 * seconds / steps:.1f} ms each, evaluation included")
    return ["microseconds_a_step"]


if __name__ == "__main__":
    study.start()
