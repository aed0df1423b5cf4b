"""Training in fp16: the loss is scaled, steps whose gradients are too large are left out, and the scale is part of a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import Hook, Trainer, assemble, load_config
from engine.config.options import ConfigError
from engine.distributed.loss_scale import LossScale
from engine.faults.errors import TrainingFailed
from runs import assert_same_run, assert_same_tensors, newest_state, rows

CPU = torch.device("cpu")
# Processors without arithmetic in fp16 take seconds a step where others take milliseconds.
SMALL = {"network.width": 0.25, "data.resolution": 16}


class Overflow(Hook):
    """Makes the gradients of these steps, counted from 1, infinite; stops the run after the step `stop`."""

    def __init__(self, run, *steps: int, stop: int | None = None) -> None:
        self._unscale, self._steps, self._stop, self._run = run.parallelism.loss_scale.unscale, steps, stop, run
        run.parallelism.loss_scale.unscale = self.unscale
        run.parallelism.loss_scale._scaler.set_growth_interval(4)

    def unscale(self) -> None:
        if self._run.progress.step in self._steps:
            next(self._run.network.parameters()).grad.fill_(math.inf)
        self._unscale()

    def on_step(self, run) -> None:
        run.stop.requested = run.stop.requested or run.progress.step == self._stop


def train(arguments: list[str], *steps: int, stop: int | None = None):
    run = assemble(load_config(arguments[1:]))
    with run.hooks.added(Overflow(run, *steps, stop=stop)):
        return Trainer(run).fit()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_that_is_left_out_leaves_no_trace(momentum):
    """Also the very first, before the optimizer has a state: the next ones are those of a run without it."""
    torch.manual_seed(0)
    layers = [nn.Linear(300, 200) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1, momentum=momentum, fused=True) for layer in layers]
    scale = LossScale(optimizers[0], CPU)
    x = torch.randn(8, 300)
    for number in range(4):
        factor = math.inf if number in (0, 2) else 1.0
        scale.scaled((layers[0](x) ** 2).mean() * factor).backward()
        scale.unscale()
        scale.step()
        assert scale.left_out == (number in (0, 2))
        optimizers[0].zero_grad()
        if factor == 1.0:
            (layers[1](x) ** 2).mean().backward()
            optimizers[1].step()
            optimizers[1].zero_grad()
    assert scale.steps_left_out == 2
    assert scale.value == 65536 / 4
    assert torch.equal(layers[0].weight, layers[1].weight)


def test_fp16_learns_what_fp32_learns(tiny_run, tmp_path, capfd):
    Trainer(assemble(load_config(tiny_run("fp16", precision="fp16", data__batch_size=8, **SMALL)[1:]))).fit()
    Trainer(assemble(load_config(tiny_run("fp32", data__batch_size=8, **SMALL)[1:]))).fit()
    halves, wholes = (rows(tmp_path / name) for name in ("fp16", "fp32"))
    assert [row["loss"] for row in halves] == pytest.approx([row["loss"] for row in wholes], rel=0.02)
    assert [row["loss"] for row in halves] != [row["loss"] for row in wholes]
    assert all(row["loss_scale"] >= 1 for row in halves)
    assert "loss_scale" not in wholes[0]


def test_steps_left_out_are_counted_said_and_trip_nothing(tiny_run, tmp_path, capfd):
    assert train(tiny_run(precision="fp16", optimizer__clip_norm=1.0, **SMALL), 1, 3).reason == "completed"
    seen = rows(tmp_path / "run")
    assert [row["steps_left_out"] for row in seen][:4] == [1, 1, 2, 2]
    assert [seen[step]["gradient_norm"] for step in (0, 2)] == [None, None]
    assert [row["loss_scale"] for row in seen] == [32768, 32768, *4 * [16384], *4 * [32768], 65536, 65536]
    (event,) = [row for row in rows(tmp_path / "run", "event") if row["event"] == "steps left out"]
    assert (event["step"], event["count"], event["loss_scale"]) == (6, 2, 16384)
    assert "fp16: 2 of the epoch's 6 steps were left out" in capfd.readouterr().out


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
def test_a_stopped_run_goes_on_to_the_last_bit(optimizer, tiny_run, tmp_path):
    options = {"precision": "fp16", "optimizer.name": optimizer}
    train(tiny_run("whole", **options, **SMALL), 2, 9)
    assert train(tiny_run("parts", **options, **SMALL), 2, 9, stop=4).reason == "preempted"
    assert newest_state(tmp_path / "parts")["loss_scale"]["scale"] == 32768
    assert train(tiny_run("parts", **options, **SMALL), 2, 9).reason == "completed"
    assert_same_run(tmp_path / "whole", tmp_path / "parts", ("network", "ema", "optimizer", "loss_scale"))
    scales = [[row["loss_scale"] for row in rows(tmp_path / name)] for name in ("whole", "parts")]
    assert scales[0] == scales[1]


def test_a_scale_that_falls_to_nothing_ends_the_run(tiny_run, tmp_path):
    with pytest.raises(
        TrainingFailed, match=r"the loss scale fell to 0\.5: in fp16 no gradient was finite at step 17 with"
    ):
        train(tiny_run(precision="fp16", schedule__epochs=4, **SMALL), *range(100))


def test_a_run_without_a_scale_branches_into_one(tiny_run, tmp_path):
    Trainer(assemble(load_config(tiny_run(**SMALL)[1:]))).fit()
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000000006.pt"
    Trainer(assemble(load_config(tiny_run("new", run__branch=checkpoint, precision="fp16", **SMALL)[1:]))).fit()
    assert rows(tmp_path / "new")[-1]["loss_scale"] == 65536


def test_ranks_leave_out_the_same_steps(torchrun, tiny_run, tmp_path):
    """One rank's own gradient overflows; compressed or not, what both ranks add up does."""
    script = Path(__file__).with_name("overflowing_train.py")
    for compressed in ("false", "true"):
        done = torchrun(
            [
                script,
                *tiny_run(
                    compressed, precision="fp16", data__batch_size=4, strategy__compress_gradients=compressed, **SMALL
                )[1:],
            ],
            env={"PYTHONPATH": str(Path(__file__).parents[3])},
        )
        assert done.returncode == 0, done.stderr
        states = [torch.load(tmp_path / compressed / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
        assert_same_tensors(*states)
        assert states[0]["steps_left_out"] == 1
        assert [row["steps_left_out"] for row in rows(tmp_path / compressed)][:5] == [0, 0, 1, 1, 1]


def test_deepspeed_refuses_it(tiny_run):
    with pytest.raises(
        ConfigError, match=r"--precision fp16 does not go with --strategy\.name deepspeed.* use --strategy\.name ddp"
    ):
        load_config(tiny_run(precision="fp16", strategy__name="deepspeed")[1:])
