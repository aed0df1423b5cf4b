"""Optimizer state by name of parameter, the same under every way of sharing the work."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def named_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Any]]:
    """The optimizer's state by name of parameter, on the optimizer's own tensors."""
    return {name: dict(optimizer.state[p]) for name, p in parameters.items() if optimizer.state.get(p)}


def load_named_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Mapping[str, Any]]
) -> None:
    """Gives `optimizer` copies of what `named_state` gave, on the parameters' devices."""
    for name, values in state.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            key: _like(value, parameter) if isinstance(value, Tensor) else value for key, value in values.items()
        }


def _like(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """A copy of a state tensor, in the memory format of its parameter when it has its shape."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.clone()
