"""The optimizers by name."""

import inspect
from typing import Any

import torch
from torch import nn

from engine.config.learning_options import OWN_OPTIMIZERS
from engine.config.optimizer_registry import KEYWORDS, registered, timm_optimizers
from engine.config.options import ConfigError, OptimizerConfig
from engine.training.fine_tuning import learning_rate_scales
from inception.vocabulary.network import Network


def create_optimizer(network: nn.Module, options: OptimizerConfig, peak: float | None = None) -> torch.optim.Optimizer:
    """The optimizer over `network`'s parameters that are not frozen, in two groups for each learning rate: weights decay; biases
    and batch normalisation do not. `peak` is the largest learning rate of the run, `options.lr` unless given.

    Raises ConfigError for a name that timm's registry does not have.
    """
    groups: list[dict[str, Any]] = []
    for scale, parameters in by_learning_rate(network, options).items():
        rate = {} if scale == 1.0 else {"lr_scale": scale}  # which `Parallelism.set_learning_rate` multiplies with
        groups += [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay, **rate},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, **rate},
        ]
    groups = [group for group in groups if group["params"]]
    own = options.in_effect()
    if options.name not in OWN_OPTIMIZERS:
        given = {KEYWORDS[option]: value for option, value in own.items() if value is not None}
        return _of_registry(options.name, groups, options.lr if peak is None else peak, given)
    nesterov = own["nesterov"] and own["momentum"] > 0  # of which there is none without momentum
    if options.name == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=own["momentum"], nesterov=nesterov, fused=True)
    timm = timm_optimizers(options.name)
    if options.name == "lars":  # layers whose weights do not decay keep the plain step
        return timm.Lars(groups, lr=options.lr, momentum=own["momentum"], nesterov=nesterov)
    if options.name == "lamb":
        # Clipping is the run's: --optimizer.clip_norm, over all groups together.
        return timm.Lamb(groups, lr=options.lr, betas=own["betas"], eps=own["epsilon"], max_grad_norm=None)
    return timm.RMSpropTF(groups, lr=options.lr, alpha=own["decay"], eps=own["epsilon"], momentum=own["momentum"])


def _of_registry(name: str, groups: list[dict[str, Any]], peak: float, given: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer `name` of timm's registry with what is `given`, else as timm's own factory makes it. Forms that correct
    their weight decay (adamc, lionc, ...) compare every rate with the `peak` they are made with."""
    kind, meant = registered(name)
    parameters = inspect.signature(kind).parameters
    always: dict[str, Any] = {}
    if "momentum" in parameters:
        always["momentum"] = 0.9  # in timm's factory whatever the class says
    if "max_grad_norm" in parameters:
        always["max_grad_norm"] = None  # clipping is the run's
    if isinstance(kind, type) and issubclass(kind, torch.optim.SGD | torch.optim.Adam | torch.optim.AdamW):
        always["fused"] = True
    try:
        return kind(groups, lr=peak, **{**always, **meant, **given})
    except ValueError as error:
        raise ConfigError(
            f"option --optimizer.name {name} does not go with the others of --optimizer: {error}"
        ) from None


def words_of_registered(options: OptimizerConfig) -> str:
    """What an optimizer of timm's registry is made with, given or not, in words."""
    made = create_optimizer(nn.Linear(1, 1), options)
    first = made.param_groups[0]
    settings = {option: first[keyword] for option, keyword in KEYWORDS.items() if first.get(keyword) is not None}
    shown = [f"{option} {value}" for option, value in {**settings, "weight decay": options.weight_decay}.items()]
    rate = inspect.signature(registered(options.name)[0]).parameters["lr"].default
    usual = f"; timm's own learning rate for it is {rate:g}" if isinstance(rate, float) else ""
    return f"{options.name} of timm ({type(made).__name__}) with {', '.join(shown)}{usual}"


def by_learning_rate(network: nn.Module, options: OptimizerConfig) -> dict[float, list[nn.Parameter]]:
    """The parameters that learn, by what the run's learning rate is multiplied with for them."""
    learning = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    if not isinstance(network, Network):
        return {1.0: [parameter for _, parameter in learning]}
    scales, found = learning_rate_scales(network, options), dict[float, list[nn.Parameter]]()
    for name, parameter in learning:
        found.setdefault(scales[name.partition(".")[0]], []).append(parameter)
    return found
