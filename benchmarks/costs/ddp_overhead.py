"""What this project's training loop costs over torch's own: the whole of engine.training.trainer against a minimal DDP loop.

    python benchmarks/costs/ddp_overhead.py [--ranks 2] [--network debug] [--batch-size 64]

Both loops train the same network from the same weights on the same synthetic batches, under DistributedDataParallel with
the same settings, and take turns in the same processes. Ours also does what training needs: learning rates, seeds, loss
and accuracy kept, rows of metrics, agreement among ranks, progress, a watchdog. A second measurement takes the network
out and leaves the loop alone.
"""

import contextlib
import copy
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.measuring import alternate, positive, repeated, synthetic
from benchmarks.measuring.command_line import told
from benchmarks.measuring.processes import measured_on_ranks
from benchmarks.peers.train import loss_of
from benchmarks.reporting import Result, Study
from engine.config.command_line import load_config
from engine.distributed.ddp import SYNC_BUFFERS
from engine.monitoring.hooks import Hook
from engine.training.assembly import Run, assemble
from engine.training.optimizers import create_optimizer
from engine.training.trainer import Trainer
from launch.environment import Environment, detect
from pipelines.support.cores import usable_cores

study = Study("ddp_overhead", __doc__, network="debug", batch_size=64, windows=25, steps=10)
study.option("--ranks", type=positive, default=2, help="number of ranks")
study.option("--worker", type=Path, help="for the ranks that this script starts")


@study
def main(options: Any, result: Result) -> None:
    ranks, case = options.ranks, {"network": options.network, "batch": options.batch_size}
    together = _start(ranks, options)
    rates = {f"{name} loop, {ranks} ranks": together[name] for name in ("minimal", "trainer")}
    result.add_each(case, "what", "images/s of a rank", rates)
    ratios = [minimal / ours for minimal, ours in zip(together["minimal"], together["trainer"])]
    what = f"step of the trainer over that of the minimal loop, {ranks} ranks"
    result.add(case | {"what": what}, "ratio", ratios, higher_is_better=False)
    empty = {f"the loop alone, {ranks} ranks": together["empty"]} if ranks > 1 else {}
    empty["the loop alone, 1 rank"] = _start(1, options)["empty"] if ranks > 1 else together["empty"]
    result.add_each(case, "what", "microseconds a step", empty, higher_is_better=False)
    result.note("The loop alone: everything but forward, backward and update; rows of metrics included.")


def _start(ranks: int, options: Any) -> dict[str, list[float]]:
    """Runs this script on so many ranks; what the first of them measured."""
    arguments = told(options, "network", "batch_size", "ranks", "windows", "steps")
    return measured_on_ranks(Path(__file__), ranks, max(1, usable_cores() // ranks), arguments, "--worker")


# ---- on every rank --------------------------------------------------------------------------------------------------


@study.instead("worker")
def _work(options: Any) -> None:
    environment = detect()
    folder = options.worker.with_suffix(".run")  # the same on every rank
    trainer = build_trainer(folder, options.network, options.batch_size, environment, "--ema.decay=0")
    minimal = MinimalLoop(trainer.run)  # before training, so that both start from the same weights
    loops: dict[str, Any] = {"minimal": minimal.train, "trainer": partial(run_steps, trainer)}
    windows, images = options.windows, options.steps * options.batch_size
    found: dict[str, Any] = {}
    with trainer.run.closing():
        if environment.world_size == options.ranks:
            window = partial(repeated, units=images, seconds=0, least=1)
            subjects = {name: window(partial(loop, options.steps)) for name, loop in loops.items()}
            measured = alternate(subjects, windows=windows, warmup=2, tolerant=False)
            found = {name: measurement.rates for name, measurement in measured.items()}
        found["empty"] = _empty_loop(trainer, 40 * options.steps, windows)
        if trainer.run.communicator.is_main:
            options.worker.write_text(json.dumps(found))
        trainer.run.communicator.barrier()


def build_trainer(folder: Any, network: str, batch_size: int, environment: Environment, *options: str) -> Trainer:
    """A trainer on synthetic batches of `batch_size` images a rank, in fp32, that neither ends nor saves by itself."""
    endless = ("--precision=fp32", "--schedule.epochs=100000", "--checkpoint.every_seconds=31536000")
    arguments = [*synthetic(folder, network, batch_size, environment.world_size), *endless, *options]
    return Trainer(assemble(load_config(arguments), environment))


class MinimalLoop:
    """A training loop as torch's tutorial on DistributedDataParallel has it, and nothing more."""

    def __init__(self, run: Run):
        network = copy.deepcopy(run.network)
        self.optimizer = create_optimizer(network, run.config.optimizer)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=run.config.loss.label_smoothing)
        self.weights = network.auxiliary_weights
        self.scale, self.shift = run.objective.normalise.scale, run.objective.normalise.shift
        device_ids = [run.communicator.device.index] if run.communicator.device.type == "cuda" else None
        settings: dict[str, Any] = {"gradient_as_bucket_view": True, "static_graph": True, SYNC_BUFFERS: False}
        self.network = DistributedDataParallel(network.train(), device_ids, **settings)
        self.batch = next(iter(run.loader))
        run.loader.load_state_dict({"samples_seen": 0})

    def train(self, steps: int) -> None:
        """So many steps on the same batch."""
        for _ in range(steps):
            images = torch.addcmul(self.shift, self.batch.images.float(), self.scale)
            loss_of(self.network(images), self.batch.labels, self.criterion, self.weights).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


class _StopAt(Exception, Hook):
    """Leaves the training loop after step number `step`, being raised by itself."""

    def __init__(self, step: int):
        self._step = step

    def on_step(self, run: Run) -> None:
        if run.progress.step == self._step:
            raise self


def run_steps(trainer: Trainer, steps: int) -> None:
    """So many steps of the trainer's own loop, over epochs as they come."""
    run = trainer.run
    with run.hooks.added(_StopAt(run.progress.step + steps)), contextlib.suppress(_StopAt):
        while True:
            trainer.train_epoch(run.progress.epoch)
    run.loader.load_state_dict({"samples_seen": run.progress.samples_seen})
    run.recent.clear()


def _empty_loop(trainer: Trainer, steps: int, windows: int) -> list[float]:
    """Microseconds a step of the loop with forward, backward and update left out."""
    values = torch.zeros(2, device=trainer.run.communicator.device)
    trainer.run.train_step.accumulate = lambda *batch: None  # type: ignore[method-assign]
    trainer.run.train_step.update = lambda measure=False: (values, None)  # type: ignore[method-assign]
    window = repeated(partial(run_steps, trainer, steps), steps, seconds=0, least=1)
    return [1e6 / rate for rate in alternate({"empty": window}, windows=windows, tolerant=False)["empty"].rates]


if __name__ == "__main__":
    study.start()
