"""Optimizers: what their options say is what they do, and their state is all of it."""

from __future__ import annotations

import pytest
import torch

from engine.config.options import OptimizerConfig
from engine.distributed.optimizer_state import load_named_state, named_state
from engine.training.optimizers import create_optimizer


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(5, 3)


def test_a_group_without_a_parameter_that_learns_is_left_out():
    net = network()
    net.weight.requires_grad_(False)
    [group] = create_optimizer(net, OptimizerConfig()).param_groups
    assert group["params"] == [net.bias]


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range, size: float = 1.0) -> None:
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        (size * net(torch.randn(4, 5)).square().sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "lars", "lamb"])
def test_a_resumed_optimizer_goes_on_to_the_last_bit(name, tmp_path):
    options = OptimizerConfig(name=name, lr=0.05)
    whole, first, second = network(), network(), network()
    optimizer = create_optimizer(whole, options)
    train(whole, optimizer, range(6))
    before = create_optimizer(first, options)
    train(first, before, range(3))
    torch.save(named_state(before, dict(first.named_parameters())), tmp_path / "state.pt")
    second.load_state_dict(first.state_dict())
    after = create_optimizer(second, options)
    load_named_state(after, dict(second.named_parameters()), torch.load(tmp_path / "state.pt", weights_only=True))
    train(second, after, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), second.parameters()))


def test_lamb_does_not_clip_by_itself():
    """Its step does not depend on the gradient's size; under a hidden limit on the norm it would."""
    small, large = network(), network()
    options = OptimizerConfig(name="lamb", lr=0.01, epsilon=1e-9)
    optimizers = [create_optimizer(net, options) for net in (small, large)]
    for step in range(4):  # sizes that change, which clipping would make alike
        train(small, optimizers[0], range(step, step + 1), size=1e-2 * (1 + step))
        train(large, optimizers[1], range(step, step + 1), size=1e2 * (1 + step))
    for one, other in zip(small.parameters(), large.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "default"), [("lamb", 1e-6), ("rmsprop", 1.0)])
def test_epsilon_is_what_was_asked_for(name, default):
    assert create_optimizer(network(), OptimizerConfig(name=name)).param_groups[0]["eps"] == default
    assert create_optimizer(network(), OptimizerConfig(name=name, epsilon=0.25)).param_groups[0]["eps"] == 0.25
