"""What measuring batch normalisation's statistics anew does for averaged weights: accuracy with and without, by epoch.

    python benchmarks/studies/recalibration.py [--recipe sample] [--decays 0.99] [--batches 10] [--epochs 6] [--seeds 3]

Trains as the recipe says, on fewer epochs. After the first, the middle and the last one the same averaged weights are
evaluated twice: with their averaged statistics, and with those of some batches (`ema.recalibrate`).
"""

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.measuring import positive
from benchmarks.reporting import Result, Study
from engine.config.command_line import load_config
from engine.monitoring.hooks import Hook
from engine.training.assembly import Run, assemble
from engine.training.evaluating import evaluate
from engine.training.trainer import Trainer

study = Study("recalibration", __doc__, seeds=3, set=[])
study.option("--recipe", default="sample", help="the recipe to train")
study.option("--decays", type=float, nargs="+", default=[0.99], help="values of ema.decay")
study.option("--batches", type=positive, default=10, help="batches that statistics are measured on")
study.option("--epochs", type=positive, default=6, help="epochs of the schedule")


class EvaluatedAgain(Hook):
    """Evaluates once more after the `wanted` epochs, with statistics of so many `batches`; `found` gets top-1 in percent with
    averaged and new statistics."""

    def __init__(self, wanted: set[int], batches: int, found: dict[int, list[tuple[float, float]]]):
        self._wanted, self._batches, self._found = wanted, batches, found

    def on_evaluation(self, run: Run, row: dict[str, Any], findings: Any) -> None:
        options, epoch = run.config.ema, run.progress.epoch
        if epoch in self._wanted and not options.recalibrate:
            options.recalibrate = self._batches
            self._found[epoch].append((row["top1"], evaluate(run)))
            options.recalibrate = 0


@study
def main(options: Any, result: Result) -> None:
    for decay in options.decays:
        found: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for seed in range(options.seeds):
            result.say(f"training with decay {decay}, seed {seed} ...")
            _train(options, decay, seed, found)
        for epoch, pairs in sorted(found.items()):
            case, (averaged, anew) = {"decay": decay, "epoch": epoch}, zip(*pairs)
            result.add_each(case, "statistics", "top-1 percent", {"averaged": averaged, "recalibrated": anew})
            differences = [after - before for before, after in pairs]
            result.add(case | {"statistics": "recalibrated over averaged"}, "points of top-1", differences)
    result.note(f"Of {options.seeds} seeds; {options.batches} batches; the difference is that of the same weights.")


def _train(options: Any, decay: float, seed: int, found: dict[int, list[tuple[float, float]]]) -> None:
    """Trains once and adds what the evaluations found."""
    with tempfile.TemporaryDirectory() as folder:
        told = [f"--recipe={options.recipe}", f"--run.dir={folder}", f"--run.seed={seed}", f"--ema.decay={decay}"]
        config = load_config([*told, f"--schedule.epochs={options.epochs}", *options.set])
        config.run.target_top1, config.ema.recalibrate = None, 0
        wanted = {1, max(1, options.epochs // 2), options.epochs}
        Trainer(assemble(config, hooks=[EvaluatedAgain(wanted, options.batches, found)])).fit()


if __name__ == "__main__":
    study.start()
