"""The optimizers by name."""

from typing import Any

import torch
from torch import nn

from engine.config.options import OptimizerConfig
from engine.training.fine_tuning import learning_rate_scales
from inception.vocabulary.network import Network


def create_optimizer(network: nn.Module, options: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over `network`'s parameters that are not frozen, in two groups for each learning rate: weights decay; biases
    and batch normalisation do not."""
    groups: list[dict[str, Any]] = []
    for scale, parameters in by_learning_rate(network, options).items():
        rate = {} if scale == 1.0 else {"lr_scale": scale}  # which `Parallelism.set_learning_rate` multiplies with
        groups += [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay, **rate},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, **rate},
        ]
    groups = [group for group in groups if group["params"]]
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


def by_learning_rate(network: nn.Module, options: OptimizerConfig) -> dict[float, list[nn.Parameter]]:
    """The parameters that learn, by what the run's learning rate is multiplied with for them."""
    learning = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    if not isinstance(network, Network):
        return {1.0: [parameter for _, parameter in learning]}
    scales, found = learning_rate_scales(network, options), dict[float, list[nn.Parameter]]()
    for name, parameter in learning:
        found.setdefault(scales[name.partition(".")[0]], []).append(parameter)
    return found
