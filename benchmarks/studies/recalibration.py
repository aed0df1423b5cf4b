"""What measuring batch normalisation's statistics anew does for averaged weights: accuracy with and without, by epoch.

    python benchmarks/studies/recalibration.py [--recipe sample] [--decays 0.99] [--batches 10] [--epochs 6] [--seeds 3]

Trains as the recipe says, on fewer epochs. After the first, the middle and the last one the same averaged weights are
evaluated twice: with their averaged statistics, and with those of some batches (`ema.recalibrate`).
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.measuring.command_line import Parser, add_output_options, add_training_options, positive
from benchmarks.reporting.results import RESULTS, Result
from engine.config.command_line import load_config
from engine.faults.exit_status import DONE, run_entry_point
from engine.training.assembly import assemble
from engine.training.trainer import Trainer

# By epoch, of every seed: top-1 in percent with averaged and with new statistics.
Found = dict[int, list[tuple[float, float]]]


def main(arguments: Sequence[str]) -> int:
    parser = Parser("Averaged weights with averaged and with recalibrated statistics.")
    parser.add_argument("--recipe", default="sample", help="the recipe to train")
    parser.add_argument("--decays", type=float, nargs="+", default=[0.99], help="values of ema.decay")
    parser.add_argument("--batches", type=positive, default=10, help="batches that statistics are measured on")
    parser.add_argument("--epochs", type=positive, default=6, help="epochs of the schedule")
    parser.add_argument("--seeds", type=positive, default=3, help="trainings of each kind")
    add_training_options(parser)
    add_output_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    result = Result("recalibration", vars(options))
    for decay in options.decays:
        found: Found = defaultdict(list)
        for seed in range(options.seeds):
            _train(options, decay, seed, found)
        _add_rows(result, decay, found)
    result.note(f"Of {options.seeds} seeds; {options.batches} batches; the difference is that of the same weights.")
    result.print()
    print(f"Written: {result.save(options.output)}")
    return DONE


def _train(options: Any, decay: float, seed: int, found: Found) -> None:
    """Trains once and adds what the evaluations found."""
    with tempfile.TemporaryDirectory() as folder:
        told = [f"--recipe={options.recipe}", f"--run.dir={folder}", f"--run.seed={seed}", f"--ema.decay={decay}"]
        config = load_config([*told, f"--schedule.epochs={options.epochs}", *options.set])
        config.run.target_top1 = None
        trainer = Trainer(assemble(config))
        evaluate = trainer.evaluate
        wanted = {1, max(1, options.epochs // 2), options.epochs}

        def evaluate_twice() -> float:
            epoch = round(trainer.run.progress.position()["epoch"])
            if epoch in wanted:
                config.ema.recalibrate = 0
                averaged = evaluate()
                config.ema.recalibrate = options.batches
                found[epoch].append((averaged, evaluate()))
            return 0.0

        trainer.evaluate = evaluate_twice  # type: ignore[method-assign]
        trainer.fit()


def _add_rows(result: Result, decay: float, found: Found) -> None:
    for epoch, pairs in sorted(found.items()):
        case = {"decay": decay, "epoch": epoch}
        for name, values in zip(("averaged", "recalibrated"), zip(*pairs)):
            result.add(case | {"statistics": name}, "top-1 percent", values)
        differences = [after - before for before, after in pairs]
        result.add(case | {"statistics": "recalibrated over averaged"}, "points of top-1", differences)


if __name__ == "__main__":
    run_entry_point(main)
