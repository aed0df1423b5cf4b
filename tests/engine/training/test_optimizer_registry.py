"""Every optimizer of timm's registry trains here and goes on to the last bit, or is left out with a reason."""

from __future__ import annotations

import copy
import functools
import sys

import pytest
import torch
from timm.optim import list_optimizers

from engine.config.command_line import load_config
from engine.config.learning_options import OWN_OPTIMIZERS
from engine.config.optimizer_registry import (
    LEFT_OUT,
    check_optimizer,
    optimizer_names,
    options_read,
    reason_left_out,
)
from engine.config.options import Config, ConfigError, OptimizerConfig, StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.parallelism import Parallelism
from engine.graphs.objective import Objective
from engine.training.optimizers import create_optimizer
from inception import create_model
from inception.vocabulary.network import Network
from launch.environment import Environment

STEPS = 3
TRAINED = optimizer_names()


@functools.cache
def fresh_network() -> Network:
    torch.manual_seed(0)
    return create_model("debug", 10, width=0.25).to(memory_format=torch.channels_last)


class Training:
    """A small network with convolutions, normalisation and linear layers, moved by gradients that only the step decides; its
    stages learn at different rates."""

    def __init__(self, name: str):
        self.network: Network = copy.deepcopy(fresh_network())
        self.options = OptimizerConfig(name=name, lr=0.01, weight_decay=0.1, layer_decay=0.5)
        optimizer = create_optimizer(self.network, self.options, peak=0.02)
        self.parallelism = Parallelism(Communicator(Environment(), torch.device("cpu")), StrategyConfig())
        self.parallelism._remember(Objective(self.network, (), 0.0, dtype=torch.float32), optimizer)
        self.optimizer = optimizer

    def train(self, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            for parameter in self.network.parameters():
                parameter.grad = torch.randn_like(parameter)
            self.parallelism.set_learning_rate(0.01 * (1 + step), momentum=0.9 - 0.01 * step)
            self.parallelism.update(clip_norm=1.0, measure=False)

    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.network.parameters()]


@pytest.mark.parametrize("name", TRAINED)
def test_an_optimizer_that_is_interrupted_goes_on_to_the_last_bit(name, tmp_path):
    whole, first, second = Training(name), Training(name), Training(name)
    begun = whole.weights()
    whole.train(range(2 * STEPS))
    first.train(range(STEPS))
    torch.save({"state": first.parallelism.state_dict(), "network": first.network.state_dict()}, tmp_path / "saved.pt")
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    second.network.load_state_dict(saved["network"])
    second.parallelism.load_state_dict(saved["state"])
    second.train(range(STEPS, 2 * STEPS))
    assert all(torch.equal(*pair) for pair in zip(whole.weights(), second.weights()))
    assert not any(torch.equal(*pair) for pair in zip(begun, whole.weights())), "a weight did not move"
    assert all(weight.isfinite().all() for weight in whole.weights())


@pytest.mark.parametrize("name", TRAINED)
def test_weights_decay_and_biases_do_not_at_each_rate(name):
    groups = Training(name).optimizer.param_groups
    assert all((group["weight_decay"] > 0) == (group["params"][0].ndim > 1) for group in groups)
    assert len({group.get("lr_scale", 1.0) for group in groups}) > 2


def test_the_rest_of_the_registry_is_left_out_by_name():
    rest = set(list_optimizers()) - set(TRAINED)
    assert rest == {name for name in list_optimizers() if reason_left_out(name)}
    for name in [*rest, "lookahead_adamw"]:
        with pytest.raises(ConfigError, match=rf"--optimizer.name {name} is left out of timm's optimizers here: \w+"):
            check_optimizer(OptimizerConfig(name=name))
    assert rest, "with none left, LEFT_OUT says nothing"
    assert all(LEFT_OUT.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adanw", "betas": (0.9, 0.99)}, "--optimizer.betas must be 3 numbers for adanw, not [0.9, 0.99]"),
        (
            {"name": "nadam_w"},
            "'nadam_w' is none of sgd, rmsprop, lars, lamb and none of timm's optimizers, did you mean 'nadamw'?",
        ),
        ({"name": "AdamW"}, "did you mean 'adamw'?"),
        ({"name": "smd"}, "did you mean 'sgd'?"),
        (
            {"name": "adamw", "momentum": 0.9, "decay": 0.9},
            "options --optimizer.momentum 0.9, --optimizer.decay 0.9: adamw has no",
        ),
        (
            {"name": "adamw", "momentum": 0.9},
            "(it has betas, epsilon, weight_decay): leave out, or set to null where a recipe",
        ),
        (
            {"betas": (0.9, 0.999)},
            "option --optimizer.betas [0.9, 0.999]: sgd has no such setting (it has momentum, nesterov,",
        ),
        ({"name": "lion", "epsilon": 1e-8}, "option --optimizer.epsilon 1e-08: lion has no such setting"),
        ({"name": "sgd", "epsilon": 1.0}, "option --optimizer.epsilon 1.0: sgd has no such setting"),
        ({"name": "rmsprop", "nesterov": True}, "option --optimizer.nesterov true: rmsprop has no such setting"),
        ({"name": "lamb", "momentum": 0.9, "betas": (0.9, 0.9)}, "both set the first beta of lamb"),
    ],
)
def test_names_and_options_that_cannot_be_are_refused_in_one_line(options, message):
    with pytest.raises(ConfigError) as refusal:
        check_optimizer(OptimizerConfig(**options))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_recipe_of_another_optimizer_is_overridden_with_null():
    line = ["--recipe=imagenet_inception_v3", "--data.path=unread", "--optimizer.name=adamw"]
    with pytest.raises(ConfigError, match="set to null where a recipe gives it"):
        load_config(line)
    with pytest.raises(ConfigError, match=r"option --optimizer.betas must be at least 0 and below 1"):
        load_config([*line, "--optimizer.betas=[0.9,1.0]"])
    free = [f"--optimizer.{name}=null" for name in ("momentum", "decay", "epsilon")]
    assert load_config([*line, *free, "--optimizer.betas=[0.9,0.95]"]).optimizer.betas == (0.9, 0.95)


def test_options_reach_the_optimizer_and_the_rest_is_timms():
    def first_group(**options) -> dict:
        return create_optimizer(torch.nn.Linear(3, 3), OptimizerConfig(**options)).param_groups[0]

    assert first_group(name="adamw", betas=(0.8, 0.95), epsilon=1e-5)["betas"] == (0.8, 0.95)
    assert first_group(name="adamw", betas=(0.8, 0.95), epsilon=1e-5)["eps"] == 1e-5
    assert first_group(name="adamw")["betas"] == (0.9, 0.999)
    assert first_group(name="adamw")["fused"] is True
    assert first_group(name="muon")["momentum"] == 0.9, "what timm's factory gives it"
    assert first_group(name="muon", momentum=0.95)["momentum"] == 0.95
    assert first_group(name="nmuon")["nesterov"] is True, "what the name stands for"
    assert first_group(name="lambw")["max_grad_norm"] is None, "clipping is the run's"
    assert first_group(name="lamb", momentum=0.8)["betas"] == (0.8, 0.999), "as recipes have written it"


def test_corrected_weight_decay_is_measured_by_the_runs_peak_rate():
    groups = create_optimizer(torch.nn.Linear(3, 3), OptimizerConfig(name="adamc", lr=0.1), peak=0.4).param_groups
    assert groups[0]["max_lr_snapshot"] == 0.4


def test_momentum_moves_where_there_is_one():
    def after(name: str) -> dict:
        training = Training(name)
        training.parallelism.set_learning_rate(0.1, momentum=0.5)
        return training.optimizer.param_groups[0]

    assert after("sgd")["momentum"] == 0.5
    assert after("adanw")["betas"] == (0.5, 0.92, 0.99)
    assert "momentum" not in after("adagrad")


def test_a_timm_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(ConfigError, match=r"--optimizer.name adamw needs timm \(.*\): pip install 'timm"):
        check_optimizer(OptimizerConfig(name="adamw"))
    with pytest.raises(ConfigError, match=r"--optimizer.name rmsprop needs timm"):
        create_optimizer(torch.nn.Linear(3, 3), OptimizerConfig(name="rmsprop"))
    check_optimizer(OptimizerConfig())
    assert create_optimizer(torch.nn.Linear(3, 3), OptimizerConfig()).param_groups


def test_our_own_four_are_not_timms_by_the_same_name():
    assert [options_read(name) for name in OWN_OPTIMIZERS] == [
        ["momentum", "nesterov"], ["momentum", "decay", "epsilon"], ["momentum", "nesterov"], ["betas", "epsilon", "momentum"],
    ]  # fmt: skip
    assert type(create_optimizer(torch.nn.Linear(3, 3), OptimizerConfig(name="rmsprop"))).__name__ == "RMSpropTF"
    for name in ("sgd", "lars"):
        made = create_optimizer(torch.nn.Linear(3, 3), OptimizerConfig(name=name, momentum=0.0))
        assert made.param_groups[0]["nesterov"] is False
    assert Config().optimizer.in_effect()["momentum"] == 0.9
