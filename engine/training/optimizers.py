"""The optimizers by name."""

import torch
from torch import nn

from engine.config.options import OptimizerConfig


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
        # Clipping is the run's: --optimizer.clip_norm, over all groups together.
        return Lamb(
            groups, lr=options.lr, betas=(options.momentum, 0.999), eps=options.epsilon_in_effect, max_grad_norm=None
        )
    epsilon = options.epsilon_in_effect
    return RMSpropTF(groups, lr=options.lr, alpha=options.decay, eps=epsilon, momentum=options.momentum)
