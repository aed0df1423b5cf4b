"""What a checkpoint costs training: the moment it stands still for the copy, and all the time lost while it is written.

    python benchmarks/costs/checkpoint_cost.py [--network inception_v3] [--batch-size 4]

Windows of the trainer's own steps on synthetic batches, with and without a checkpoint begun at the first of them, take turns.
A window must outlast the writing, or the rest of it would go unseen: the script waits for it inside the window.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.costs.ddp_overhead import build_trainer, run_steps
from benchmarks.measuring.command_line import Parser, add_output_options, positive
from benchmarks.measuring.measure import Window, alternate
from benchmarks.reporting.results import RESULTS, Result
from engine.config.options import CheckpointConfig
from engine.faults.exit_status import DONE, run_entry_point
from engine.training.trainer import Trainer
from launch.environment import detect


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    result = Result("checkpoint_cost", vars(options))
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(folder, options.network, options.batch_size, detect(), "--ema.decay=0.999")
        standing: list[float] = []
        subjects = {
            "steps": lambda: _window(trainer, options, None),
            "steps and a checkpoint": lambda: _window(trainer, options, standing),
        }
        measured = alternate(subjects, windows=options.windows, warmup=1, tolerant=False)
        size = sum(path.stat().st_size for path in trainer.run.directory.checkpoints.glob("step-*.pt")) / 2
    case = {"network": options.network, "batch": options.batch_size}
    for name, measurement in measured.items():
        result.add(case | {"what": name}, "steps/s", measurement)
    plain, saving = (measured[name].windows for name in subjects)
    extra = [with_it.seconds - without.seconds for without, with_it in zip(plain, saving)]
    interval = CheckpointConfig().every_seconds
    result.add(
        case | {"what": "standing still for the copy"}, "s", standing[-options.windows :], higher_is_better=False
    )
    result.add(case | {"what": "lost by a checkpoint in all"}, "s", extra, higher_is_better=False)
    result.add(
        case | {"what": f"lost with one every {interval:.0f} s"}, "percent",
        [100 * seconds / interval for seconds in extra], higher_is_better=False,
    )  # fmt: skip
    result.note(f"A checkpoint has {size / 1e6:.0f} MB; checkpoint.every_seconds is {interval:.0f} unless set.")
    result.print()
    print(f"Written: {result.save(options.output)}")
    return DONE


def _parser() -> Parser:
    parser = Parser("The cost of a checkpoint to training.")
    parser.add_argument("--network", default="inception_v3", help="name of the network")
    parser.add_argument("--batch-size", type=positive, default=4, help="images")
    parser.add_argument("--windows", type=positive, default=5, help="measured windows of each kind")
    parser.add_argument("--steps", type=positive, default=6, help="steps in a window")
    add_output_options(parser, RESULTS)
    return parser


def _window(trainer: Trainer, options: Any, standing: list[float] | None) -> Window:
    """A window of steps; with a list to take note in, a checkpoint is begun before them and waited for after them."""
    started = time.perf_counter()
    if standing is not None:
        trainer.save()
        standing.append(time.perf_counter() - started)
    run_steps(trainer, options.steps)
    trainer.run.writer.wait()
    return Window(options.steps, time.perf_counter() - started)


if __name__ == "__main__":
    run_entry_point(main)
