"""Schedules against their formulas: warm-up, decay, least rate, cool-down, one cycle; and what cannot be."""

from __future__ import annotations

import math

import pytest
import torch

from engine.config.checks import check_values
from engine.config.options import Config, ConfigError, EmaConfig, OptimizerConfig, ScheduleConfig
from engine.training.schedules import learning_rate, momentum, require_room

STEPS = 100  # an epoch
KINDS = ["cosine", "polynomial", "exponential", "step", "plateau", "onecycle", "constant"]


def rate(epoch: float, lowered: int = 0, optimizer: OptimizerConfig | None = None, **options) -> float:
    schedule = ScheduleConfig(**{"epochs": 10, "decay_rate": 0.5, "decay_epochs": 3} | options)
    return learning_rate(round(epoch * STEPS), STEPS, 256, schedule, optimizer or OptimizerConfig(lr=0.4), lowered)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "onecycle"])
def test_a_warmup_in_steps_is_one_in_epochs(kind):
    for epoch in (0, 0.5, 1.99, 2, 2.01, 7.3, 9.99):
        assert rate(epoch, kind=kind, warmup_steps=200) == pytest.approx(rate(epoch, kind=kind, warmup_epochs=2))
    assert rate(0, kind=kind, warmup_steps=3) == pytest.approx(0.1)
    assert rate(0.02, kind=kind, warmup_steps=3) == pytest.approx(0.3)


def test_decays_end_at_the_least_rate():
    assert rate(10, kind="cosine", min_lr=0.1) == pytest.approx(0.1)
    assert rate(5, kind="cosine", min_lr=0.1) == pytest.approx(0.25)
    assert rate(5, kind="polynomial", min_lr=0.1) == pytest.approx(0.25)
    assert rate(5, kind="polynomial", min_lr=0.1, power=2) == pytest.approx(0.1 + 0.3 * 0.25)
    assert rate(10, kind="polynomial") == 0
    assert rate(9, kind="step", min_lr=0.1) == pytest.approx(0.1)
    assert rate(6, kind="step", min_lr=0.01) == pytest.approx(0.1)
    assert rate(9, kind="exponential", min_lr=0.1) == pytest.approx(0.1)
    assert rate(9, kind="constant", min_lr=0.1) == 0.4
    assert rate(1, lowered=1, kind="plateau", min_lr=0.15) == pytest.approx(0.2)
    assert rate(1, lowered=2, kind="plateau", min_lr=0.15) == pytest.approx(0.15)


def test_the_least_rate_grows_with_the_batch_as_the_peak_does():
    assert rate(10, kind="cosine", min_lr=0.1, optimizer=OptimizerConfig(lr=0.4, lr_batch_size=64)) == pytest.approx(
        0.4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_cooldown_is_trained_at_the_least_rate_and_the_decay_ends_before_it(kind):
    cooled = {"kind": kind, "min_lr": 0.001, "cooldown_epochs": 2}
    assert rate(8, **cooled) == rate(9.99, **cooled) == pytest.approx(0.001)
    assert rate(7.99, **cooled) > 0.001
    if kind in ("cosine", "polynomial", "onecycle"):
        shorter = {**cooled, "epochs": 8, "cooldown_epochs": 0}
        assert all(rate(epoch, **cooled) == pytest.approx(rate(epoch, **shorter)) for epoch in (0, 3, 7.9))


def test_one_cycle_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.4, total_steps=10 * STEPS + 1, pct_start=300.999 / 1000
    )
    schedule = ScheduleConfig(epochs=10, kind="onecycle")
    for step in range(10 * STEPS):
        group = optimizer.param_groups[0]
        ours = learning_rate(step, STEPS, 256, schedule, OptimizerConfig(lr=0.4))
        assert ours == pytest.approx(group["lr"], abs=0.002), step
        assert momentum(step, STEPS, schedule) == pytest.approx(group["momentum"], abs=0.001), step
        optimizer.step()
        theirs.step()
    assert rate(3, kind="onecycle") == pytest.approx(0.4)
    assert rate(2, kind="onecycle", warmup_epochs=2) == pytest.approx(0.4)
    assert momentum(300, STEPS, schedule) == pytest.approx(0.85)
    assert momentum(0, STEPS, schedule) == pytest.approx(0.95)
    assert momentum(0, STEPS, ScheduleConfig()) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_rate_is_finite_and_between_zero_and_the_peak(kind):
    for schedule in (ScheduleConfig(1, kind=kind), ScheduleConfig(3, 3, kind=kind), ScheduleConfig(1, 0, 1, kind=kind)):
        for step in range(schedule.epochs * 2 + 1):
            found = learning_rate(step, 2, 256, schedule, OptimizerConfig(lr=0.4), lowered=5)
            assert math.isfinite(found)
            assert 0 <= found <= 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"warmup_epochs": 2, "warmup_steps": 50},
            "--schedule.warmup_epochs 2 and --schedule.warmup_steps 50 both say",
        ),
        ({"min_lr": 0.5}, "--schedule.min_lr must not exceed the peak, --optimizer.lr 0.1, not be 0.5"),
        ({"cooldown_epochs": 2}, "trains at --schedule.min_lr, which is 0"),
        ({"cooldown_epochs": 8, "min_lr": 0.01, "warmup_epochs": 3}, "take more than the run's --schedule.epochs 10"),
        (
            {"kind": "onecycle", "cycle_momentum": (0.9, 0.8)},
            "--schedule.cycle_momentum must be two numbers, the smaller",
        ),
        ({"cycle_momentum": (0.9, 1.0)}, "--schedule.cycle_momentum must be at least 0 and below 1"),
        ({"patience": 0}, "--schedule.patience must be from 1"),
        ({"stop_after": -1}, "--schedule.stop_after must be from 0"),
    ],
)
def test_schedules_that_cannot_be_are_refused_in_one_line(changes, message):
    with pytest.raises(ConfigError) as refusal:
        check_values(Config(schedule=ScheduleConfig(**{"epochs": 10} | changes)))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_one_cycle_needs_an_optimizer_with_momentum():
    with pytest.raises(ConfigError, match=r"onecycle moves the momentum too, which adagrad has not"):
        check_values(Config(schedule=ScheduleConfig(kind="onecycle"), optimizer=OptimizerConfig(name="adagrad")))
    check_values(Config(schedule=ScheduleConfig(kind="onecycle"), optimizer=OptimizerConfig(name="adamw")))


def test_a_warmup_longer_than_the_run_is_refused_once_its_steps_are_known():
    require_room(ScheduleConfig(epochs=2, warmup_steps=20), 10)
    with pytest.raises(ConfigError, match=r"must not exceed the run's 20 steps, not be 21"):
        require_room(ScheduleConfig(epochs=2, warmup_steps=21), 10)
    with pytest.raises(ConfigError, match=r"must not exceed the run's 15 steps before the cool-down, not be 16"):
        require_room(ScheduleConfig(epochs=2, warmup_steps=16, cooldown_epochs=0.5), 10)


def test_an_averages_half_life_is_in_images_whatever_the_batch():
    for batch in (1, 32, 256, 1000):
        assert EmaConfig(half_life=1000).decay_of_step(batch) ** (1000 / batch) == pytest.approx(0.5)
    assert EmaConfig(decay=0.99).decay_of_step(256) == 0.99
    assert (EmaConfig().averages, EmaConfig(decay=0.9).averages, EmaConfig(half_life=9).averages) == (False, True, True)
    with pytest.raises(ConfigError, match=r"--ema.decay 0.9 and --ema.half_life 1000 both say"):
        check_values(Config(ema=EmaConfig(decay=0.9, half_life=1000)))
