"""What a checkpoint costs training: the moment it stands still for the copy, and all the time lost while it is written.

    python benchmarks/costs/checkpoint_cost.py [--network inception_v3] [--batch-size 4]

Windows of the trainer's own steps on synthetic batches, with and without a checkpoint begun at the first of them, take turns.
A window must outlast the writing, or the rest of it would go unseen: the script waits for it inside the window.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.costs.ddp_overhead import build_trainer, run_steps
from benchmarks.measuring import Window, alternate
from benchmarks.reporting import Result, Study
from engine.config.options import CheckpointConfig
from engine.training.trainer import Trainer
from launch.environment import detect

study = Study("checkpoint_cost", __doc__, network="inception_v3", batch_size=4, windows=5, steps=6)


@study
def main(options: Any, result: Result) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(folder, options.network, options.batch_size, detect(), "--ema.decay=0.999")
        standing: list[float] = []
        notes = {"steps": None, "steps and a checkpoint": standing}
        subjects = {name: partial(_window, trainer, options, note) for name, note in notes.items()}
        measured = alternate(subjects, windows=options.windows, tolerant=False)
        size = sum(path.stat().st_size for path in trainer.run.directory.checkpoints.glob("step-*.pt")) / 2
    case = {"network": options.network, "batch": options.batch_size}
    result.add_each(case, "what", "steps/s", measured)
    plain, saving = (measured[name].windows for name in subjects)
    lost = [with_it.seconds - without.seconds for without, with_it in zip(plain, saving)]
    interval = CheckpointConfig().every_seconds
    seconds = {"standing still for the copy": standing[-options.windows :], "lost by a checkpoint in all": lost}
    result.add_each(case, "what", "s", seconds, higher_is_better=False)
    share = {f"lost with one every {interval:.0f} s": [100 * seconds / interval for seconds in lost]}
    result.add_each(case, "what", "percent", share, higher_is_better=False)
    result.note(f"A checkpoint has {size / 1e6:.0f} MB; checkpoint.every_seconds is {interval:.0f} unless set.")


def _window(trainer: Trainer, options: Any, standing: list[float] | None) -> Window:
    """A window of steps; with a list to take note in, a checkpoint is begun before them and waited for after them."""
    started = time.perf_counter()
    if standing is not None:
        trainer.saver.save()
        standing.append(time.perf_counter() - started)
    run_steps(trainer, options.steps)
    trainer.run.writer.wait()
    return Window(options.steps, time.perf_counter() - started)


if __name__ == "__main__":
    study.start()
