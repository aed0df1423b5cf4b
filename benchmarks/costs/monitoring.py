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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks.measuring import Parser, as_arguments, positive
from benchmarks.reporting.results import Result
from engine.config.command_line import load_config
from engine.evaluation.findings import Findings
from engine.faults.exit_status import DONE, run_entry_point
from engine.monitoring.monitor import Monitor
from engine.monitoring.phase_clock import PhaseClock
from engine.monitoring.recorder import Recorder
from engine.monitoring.report import writer
from engine.training.assembly import assemble
from engine.training.progress import RecentSteps
from engine.training.train_step import TrainStep
from engine.training.trainer import Trainer

_clock = time.perf_counter if torch.cuda.is_available() else time.thread_time

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

    def __init__(self) -> None:
        self.calls: dict[str, list[float]] = defaultdict(list)
        self._inside = False

    def timing(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """`function`, timed as a piece of `part`; as one of the norm where it is told to measure that."""

        def timed(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return function(*arguments, **options)
            self._inside, started = True, _clock()
            try:
                return function(*arguments, **options)
            finally:
                self._inside = False
                self.calls[NORM if options.get("measure") else part].append(_clock() - started)

        return timed

    def timing_page(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """The page is written in another thread, and counts the CPU time of that."""

        def timed(*arguments: Any) -> Any:
            started = time.thread_time()
            try:
                return write(*arguments)
            finally:
                self.calls[PAGE].append(time.thread_time() - started)

        return timed

    def seconds(self) -> dict[str, float]:
        """By part. What the norms took is the difference of the medians with and without, times how often."""
        spent = {part: sum(calls) for part, calls in self.calls.items() if part not in (UPDATE, NORM)}
        plain, measured = self.calls[UPDATE], self.calls[NORM]
        extra = max(median(measured) - median(plain), 0.0) * len(measured) if plain and measured else 0.0
        return spent | {NORM: extra}


def main(arguments: Sequence[str]) -> int:
    """Measures as the command line says; returns the exit status."""
    parser = Parser("What watching a run costs it.", network="debug", batch_size=64, set=[])
    parser.add_argument("--steps", type=positive, default=200, help="training steps, in two epochs")
    options = parser.parse_args(arguments)
    result, meter = Result("monitoring", options), Meter()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        settings = {
            "recipe": "sample", "network.name": options.network, "data.backend": "synthetic", "run.dir": folder,
            "data.batch_size": options.batch_size, "data.global_batch_size": options.batch_size,
            "evaluation.batch_size": 100, "schedule.epochs": max(2, round(options.steps * options.batch_size / 4000)),
        }  # fmt: skip
        config = load_config([*as_arguments(settings), *options.set])
        config.run.target_top1 = None
        trainer = Trainer(assemble(config))
        for part, functions in TIMED.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, meter.timing(getattr(owner, name), part)))
        stack.enter_context(mock.patch.object(writer, "write_report", meter.timing_page(writer.write_report)))
        started = _clock()
        steps = trainer.fit().step
        seconds = _clock() - started
    spent = meter.seconds()
    in_loop = sum(share for part, share in spent.items() if part != PAGE)
    for part, share in {**spent, "all in the loop": in_loop}.items():
        case, microseconds = {"network": options.network, "part": part}, 1e6 * share / steps
        shown = {"higher_is_better": False, "microseconds_a_step": microseconds}
        result.add(case, "% of the run's time", 100 * share / seconds, **shown)
    result.note(f"{steps} steps in {seconds:.1f} s, {1e3 * seconds / steps:.1f} ms each, evaluation included")
    result.finish("microseconds_a_step")
    return DONE


if __name__ == "__main__":
    run_entry_point(main)
