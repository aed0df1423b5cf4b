"""Optimizer state by name of parameter, the same under every way of sharing the work."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_STEP, _GROUP_STEP = "step", "group_step"


def named_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Any]]:
    """The optimizer's state by name of parameter, on the optimizer's own tensors.

    A count of steps that an optimizer keeps for a group of parameters at once (LAMB) stands with each of them.
    """
    counts = {p: group[_STEP] for group in optimizer.param_groups if _STEP in group for p in group["params"]}
    return {
        name: dict(optimizer.state[p]) | ({_GROUP_STEP: _copied(counts[p])} if p in counts else {})
        for name, p in parameters.items()
        if optimizer.state.get(p)
    }


def load_named_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Mapping[str, Any]]
) -> None:
    """Gives `optimizer` copies of what `named_state` gave, on the parameters' devices."""
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    for name, values in state.items():
        parameter = parameters[name]
        if _GROUP_STEP in values:
            groups[parameter][_STEP] = _copied(values[_GROUP_STEP])
        on_device = any(groups[parameter].get(kind) for kind in ("fused", "capturable"))
        optimizer.state[parameter] = {
            # Other optimizers count their steps on the host, where reading the count waits for nothing.
            key: _copied(value) if key == _STEP and not on_device else _like(value, parameter)
            for key, value in values.items()
            if key != _GROUP_STEP
        }


def _copied(count: Any) -> Any:
    return count.clone() if isinstance(count, Tensor) else count


def _like(value: Any, parameter: nn.Parameter) -> Any:
    """A copy of a state on the parameter's device, a tensor of its shape in its memory format."""
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.to(parameter.device, copy=True)
