"""What watching a run costs it: the share of a training's time that goes to monitoring, by part.

    python benchmarks/costs/monitoring.py --network inception_v3 --steps 100

Trains as `engine/train.py` does, with every call of the monitoring timed, the timers' own cost included. A comparison of
whole runs with and without could not tell differences below a percent from the noise of a machine. On a GPU, times are by
the clock; on a CPU they are the CPU time of the loop's thread, so that other processes on the machine do not count.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import torch

import engine.monitoring.report.writer
from benchmarks.measuring.command_line import Parser, add_output_options, add_training_options, positive
from benchmarks.reporting.results import RESULTS, Result
from engine.config.command_line import load_config
from engine.evaluation.findings import Findings
from engine.faults.exit_status import run_entry_point
from engine.monitoring.monitor import Monitor
from engine.monitoring.phase_clock import PhaseClock
from engine.monitoring.recorder import Recorder
from engine.training.assembly import assemble
from engine.training.progress import RecentSteps
from engine.training.train_step import TrainStep
from engine.training.trainer import Trainer

_clock = time.perf_counter if torch.cuda.is_available() else time.thread_time

_PAGE = "the page, in the background"

# In the loop, by what they are for.
PARTS: dict[str, list[tuple[type, str]]] = {
    "a step's loss and accuracy": [(RecentSteps, "add")],
    "progress bar": [(Monitor, "advance")],
    "phase clock": [(PhaseClock, "begin"), (PhaseClock, "phase")],
    "rows": [(Recorder, "train_row"), (RecentSteps, "means")],
    "confusion and pictures": [(Findings, "add"), (Findings, "sum")],
    "handing over to the report": [(Monitor, "keep_findings"), (Monitor, "report")],
}


class Meter:
    """Seconds spent in functions, by part; a timed function within a timed one counts once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.updates: dict[bool, list[float]] = {True: [], False: []}
        self._inside = False

    def timing(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """`function`, timed as a piece of `part`."""

        def timed(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return function(*arguments, **options)
            self._inside, started = True, _clock()
            try:
                return function(*arguments, **options)
            finally:
                self._inside = False
                self.seconds[part] += _clock() - started

        return timed

    def timing_update(self, update: Callable[..., Any]) -> Callable[..., Any]:
        """The optimizer's step, timed apart with and without measuring the gradient's norm."""

        def timed(step: TrainStep, measure: bool = False) -> Any:
            started = _clock()
            result = update(step, measure)
            self.updates[measure].append(_clock() - started)
            return result

        return timed

    def norm_seconds(self) -> float:
        """What measuring the norms took in all: medians apart, times how often."""
        plain, measured = (sorted(self.updates[measure]) for measure in (False, True))
        if not plain or not measured:
            return 0.0
        return max(measured[len(measured) // 2] - plain[len(plain) // 2], 0.0) * len(measured)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Within it, the monitoring's functions are timed. The page, written in another thread, counts its CPU time."""

        def write_report(*arguments: Any) -> Any:
            started = time.thread_time()
            try:
                return original(*arguments)
            finally:
                self.seconds[_PAGE] += time.thread_time() - started

        original = engine.monitoring.report.writer.write_report
        with contextlib.ExitStack() as stack:
            for part, functions in PARTS.items():
                for owner, name in functions:
                    timed = self.timing(getattr(owner, name), part)
                    stack.enter_context(mock.patch.object(owner, name, timed))
            stack.enter_context(mock.patch.object(TrainStep, "update", self.timing_update(TrainStep.update)))
            stack.enter_context(mock.patch.object(engine.monitoring.report.writer, "write_report", write_report))
            yield


def main(arguments: Sequence[str]) -> int:
    """Measures as the command line says; returns the exit status."""
    parser = Parser(__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--network", default="debug", help="which network")
    parser.add_argument("--steps", type=positive, default=200, help="training steps, in two epochs")
    parser.add_argument("--batch-size", type=positive, default=64, help="images in a step")
    add_training_options(parser)
    add_output_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    result, meter = Result("monitoring", vars(options)), Meter()
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            ["--recipe", "sample", "--network.name", options.network, "--data.backend", "synthetic",
             "--data.batch_size", str(options.batch_size), "--data.global_batch_size", str(options.batch_size),
             "--evaluation.batch_size", "100", "--run.dir", folder,
             "--schedule.epochs", str(max(2, round(options.steps * options.batch_size / 4000))), *options.set]
        )  # fmt: skip
        config.run.target_top1 = None
        trainer = Trainer(assemble(config))
        with meter.attached():
            started = _clock()
            trainer.fit()
            seconds = _clock() - started
        _add_rows(result, meter, trainer.run.progress.step, seconds, options.network)
    result.print(("microseconds_a_step",))
    result.save(options.output)
    return 0


def _add_rows(result: Result, meter: Meter, steps: int, seconds: float, network: str) -> None:
    spent = {**meter.seconds, "norm of the gradient": meter.norm_seconds()}
    in_loop = sum(share for part, share in spent.items() if part != _PAGE)
    for part, share in {**spent, "all in the loop": in_loop}.items():
        result.add(
            {"network": network, "part": part}, "% of the run's time", 100 * share / seconds,
            higher_is_better=False, microseconds_a_step=1e6 * share / steps,
        )  # fmt: skip
    result.note(f"{steps} steps in {seconds:.1f} s, {1e3 * seconds / steps:.1f} ms each, evaluation included")


if __name__ == "__main__":
    run_entry_point(main)
