"""Optimizers and learning-rate schedules, as functions of the step alone: nothing here has a position to save."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.config.options import OptimizerConfig, ProgressiveConfig, ScheduleConfig


def create_optimizer(network: nn.Module, options: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over `network`'s parameters, in two groups: weights decay; biases and batch normalisation do not."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.name == "sgd":
        nesterov = options.nesterov and options.momentum > 0
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=nesterov, fused=True)
    from timm.optim import Lamb, Lars, RMSpropTF  # timm takes a second to import

    if options.name == "lars":  # layers whose weights do not decay keep the plain step
        return Lars(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov)
    if options.name == "lamb":
        return Lamb(groups, lr=options.lr, betas=(options.momentum, 0.999))
    return RMSpropTF(groups, lr=options.lr, alpha=options.decay, eps=options.epsilon, momentum=options.momentum)


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


def learning_rate(
    step: int, steps_per_epoch: int, global_batch_size: int, schedule: ScheduleConfig, optimizer: OptimizerConfig
) -> float:
    """The learning rate of optimizer step `step`, counted from 0 over the whole run.

    Linear scaling and warm-up as in arXiv 1706.02677, section 2; the cosine as in arXiv 1608.03983 without restarts.
    """
    peak = optimizer.lr
    if optimizer.lr_batch_size:
        peak *= global_batch_size / optimizer.lr_batch_size
    epoch = step / steps_per_epoch
    if epoch < schedule.warmup_epochs:
        return peak * (step + 1) / (schedule.warmup_epochs * steps_per_epoch + 1)
    if schedule.kind == "cosine":
        progress = (epoch - schedule.warmup_epochs) / max(schedule.epochs - schedule.warmup_epochs, 1e-9)
        return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    periods = epoch / schedule.decay_epochs
    if schedule.kind == "exponential":
        return peak * schedule.decay_rate**periods
    if schedule.kind == "step":
        return peak * schedule.decay_rate ** math.floor(periods)
    return peak


def resolution_at(epoch: int, full: int, options: ProgressiveConfig) -> int:
    """Side of the training images in `epoch`, counted from 0, in pixels: from `start` to `full` in a straight line."""
    if not options.start or epoch >= options.end_epoch:
        return full
    if epoch <= options.begin_epoch:
        return options.start
    share = (epoch - options.begin_epoch) / (options.end_epoch - options.begin_epoch)
    between = options.start + share * (full - options.start)
    return min(max(math.floor(between / options.multiple + 0.5) * options.multiple, options.start), full)
