"""What this project's training loop costs over torch's own: the whole of engine.training.trainer against a minimal DDP loop.

    python benchmarks/costs/ddp_overhead.py [--ranks 2] [--network debug] [--batch-size 64]

Both loops train the same network from the same weights on the same synthetic batches, under DistributedDataParallel with
the same settings, and take turns in the same processes. Ours also does what training needs: learning rates, seeds, loss
and accuracy kept, rows of metrics, agreement among ranks, progress, a watchdog. A second measurement takes the network
out and leaves the loop alone.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.measuring.command_line import Parser, add_output_options, positive
from benchmarks.measuring.measure import Window, alternate
from benchmarks.measuring.ranks import measure_on_ranks
from benchmarks.measuring.summaries import paired_ratio
from benchmarks.reporting.results import RESULTS, Result
from engine.config.command_line import load_config
from engine.distributed.ddp import SYNC_BUFFERS
from engine.faults.exit_status import DONE, run_entry_point
from engine.monitoring.hooks import Hook
from engine.training.assembly import Run, assemble
from engine.training.optimizers import create_optimizer
from engine.training.trainer import Trainer
from launch.environment import Environment, detect
from pipelines.support.cores import usable_cores


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.worker:
        return _work(options)
    result = Result("ddp_overhead", vars(options))
    case = {"network": options.network, "batch": options.batch_size}
    together = _start(options.ranks, options)
    ratio = paired_ratio(together["minimal"], together["trainer"])
    for name in ("minimal", "trainer"):
        result.add(case | {"what": f"{name} loop, {options.ranks} ranks"}, "images/s of a rank", together[name])
    result.add(
        case | {"what": f"step of the trainer over that of the minimal loop, {options.ranks} ranks"}, "ratio",
        [a / b for a, b in zip(together["minimal"], together["trainer"])],
        interval=(ratio.low, ratio.high), higher_is_better=False,
    )  # fmt: skip
    alone = _start(1, options) if options.ranks > 1 else together
    for ranks, found in {options.ranks: together, 1: alone}.items():
        microseconds = [1e6 * seconds for seconds in found["empty"]]
        where = f"the loop alone, {ranks} ranks" if ranks > 1 else "the loop alone, 1 rank"
        result.add(case | {"what": where}, "microseconds a step", microseconds, higher_is_better=False)
    result.note(
        "The loop alone: everything but forward, backward and update; rows of metrics, every 20 steps, included."
    )
    result.print()
    print(f"Written: {result.save(options.output)}")
    return DONE


def _parser() -> Parser:
    parser = Parser("The training loop against torch's minimal DistributedDataParallel loop.")
    parser.add_argument("--network", default="debug", help="name of the network")
    parser.add_argument("--batch-size", type=positive, default=64, help="images a rank")
    parser.add_argument("--ranks", type=positive, default=2, help="number of ranks")
    parser.add_argument("--windows", type=positive, default=25, help="measured windows of each loop")
    parser.add_argument("--steps", type=positive, default=10, help="steps in a window")
    parser.add_argument("--worker", type=Path, default=None, help="for the ranks that this script starts")
    add_output_options(parser, RESULTS)
    return parser


def _start(ranks: int, options: Any) -> dict[str, list[float]]:
    """Runs this script on so many ranks; what the first of them measured."""
    arguments = ["--ranks", options.ranks, "--network", options.network, "--batch-size", options.batch_size]
    arguments += ["--windows", options.windows, "--steps", options.steps]
    return measure_on_ranks(Path(__file__), ranks, max(1, usable_cores() // ranks), arguments, "--worker")


# ---- on every rank --------------------------------------------------------------------------------------------------


def _work(options: Any) -> int:
    environment = detect()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(folder, options.network, options.batch_size, environment, "--ema.decay=0")
        minimal = MinimalLoop(trainer)  # before training, so that both start from the same weights
        subjects = {
            "minimal": lambda: _window(lambda: minimal.run(options.steps), options),
            "trainer": lambda: _window(lambda: run_steps(trainer, options.steps), options),
        }
        found: dict[str, Any] = {}
        if environment.world_size == options.ranks:
            measured = alternate(subjects, windows=options.windows, warmup=2, tolerant=False)
            found = {name: measurement.rates for name, measurement in measured.items()}
        found["empty"] = _empty_loop(trainer, 40 * options.steps, options.windows)
        if trainer.run.communicator.is_main:
            options.worker.write_text(json.dumps(found))
        trainer.run.communicator.barrier()
        with trainer.run.closing():
            pass
    return DONE


def build_trainer(folder: str, network: str, batch_size: int, environment: Environment, *options: str) -> Trainer:
    """A trainer on synthetic batches of `batch_size` images a rank, in fp32, that neither ends nor saves by itself."""
    data = {"backend": "synthetic", "batch_size": batch_size, "global_batch_size": batch_size * environment.world_size}
    arguments = [f"--data.{name}={value}" for name, value in data.items()]
    arguments += [f"--run.dir={folder}", f"--network.name={network}", "--precision=fp32", "--schedule.epochs=100000"]
    return Trainer(assemble(load_config([*arguments, "--checkpoint.every_seconds=31536000", *options]), environment))


def _window(work: Callable[[], None], options: Any) -> Window:
    started = time.perf_counter()
    work()
    return Window(options.steps * options.batch_size, time.perf_counter() - started)


class MinimalLoop:
    """A training loop as torch's tutorial on DistributedDataParallel has it, and nothing more."""

    def __init__(self, trainer: Trainer):
        config = trainer.run.config
        network = copy.deepcopy(trainer.run.network)
        self.optimizer = create_optimizer(network, config.optimizer)
        self.weights, self.smoothing = network.auxiliary_weights, config.loss.label_smoothing
        self.scale = trainer.run.objective.normalise.scale
        self.shift = trainer.run.objective.normalise.shift
        device_ids = [trainer.run.communicator.device.index] if trainer.run.communicator.device.type == "cuda" else None
        self.network = DistributedDataParallel(
            network.train(),
            device_ids,
            gradient_as_bucket_view=True,
            static_graph=True,
            **{SYNC_BUFFERS: False},  # type: ignore[arg-type]
        )
        self.batch = next(iter(trainer.run.loader))
        trainer.run.loader.load_state_dict({"samples_seen": 0})

    def run(self, steps: int) -> None:
        """So many steps on the same batch."""
        for _ in range(steps):
            images = torch.addcmul(self.shift, self.batch.images.float(), self.scale)
            loss = self.loss(self.network(images), self.batch.labels)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def loss(self, output: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        for weight, extra in zip(self.weights, auxiliary):
            loss = loss + weight * F.cross_entropy(extra, labels, label_smoothing=self.smoothing)
        return loss


class _WindowEnds(Exception):
    """The trainer has made the steps of a window."""


class StopAt(Hook):
    """Leaves the training loop after step number `step`."""

    def __init__(self, step: int):
        self._step = step

    def on_step(self, run: Run) -> None:
        if run.progress.step == self._step:
            raise _WindowEnds


def run_steps(trainer: Trainer, steps: int) -> None:
    """So many steps of the trainer's own loop, over epochs as they come."""
    run = trainer.run
    with run.hooks.added(StopAt(run.progress.step + steps)), contextlib.suppress(_WindowEnds):
        while True:
            trainer.train_epoch(run.progress.epoch)
    run.loader.load_state_dict({"samples_seen": run.progress.samples_seen})
    run.recent.clear()


def _empty_loop(trainer: Trainer, steps: int, windows: int) -> list[float]:
    """Seconds a step of the loop with forward, backward and update left out."""
    values = torch.zeros(2, device=trainer.run.communicator.device)
    trainer.run.train_step.accumulate = lambda *batch: None  # type: ignore[method-assign]
    trainer.run.train_step.update = lambda measure=False: (values, None)  # type: ignore[method-assign]
    found = []
    for _ in range(windows + 1):
        started = time.perf_counter()
        run_steps(trainer, steps)
        found.append((time.perf_counter() - started) / steps)
    return found[1:]


if __name__ == "__main__":
    run_entry_point(main)
