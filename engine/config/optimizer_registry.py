"""Which optimizers a run may have by name, and which options each reads: four of our own choosing, and timm's registry."""

import importlib
import inspect
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

from engine.config.learning_options import OWN_OPTIMIZERS
from engine.config.options import ConfigError, OptimizerConfig
from inception.registry import nearest

# Names of the registry, as patterns, that cannot train here, and why.
LEFT_OUT = {
    "adahessian": "it needs second derivatives, which a training step here does not compute",
    "kron*": "its preconditioner is drawn from each rank's own random numbers, so that the ranks' weights would drift apart",
    "bnb*": "bitsandbytes keeps its state in blocks of its own on one GPU, which checkpoints by parameter cannot hold",
    "fused*": "it needs NVIDIA's apex, built for the GPU at hand; adam, adamw and sgd are torch's fused ones already",
    "lookahead_*": "the slow weights that it wraps around another are not part of a checkpoint; ema.half_life averages weights",
}
# Options that not every optimizer has, and what timm's and torch's constructors call them.
KEYWORDS = {"momentum": "momentum", "nesterov": "nesterov", "decay": "alpha", "betas": "betas", "epsilon": "eps"}


def timm_optimizers(name: str) -> Any:
    """The module `timm.optim`, for the optimizer `name`. Raises ConfigError when it cannot be had."""
    try:
        return importlib.import_module("timm.optim")  # takes a second
    except ImportError as error:
        raise ConfigError(f"--optimizer.name {name} needs timm ({error}): pip install 'timm>=1.0.20'") from None


def optimizer_names() -> list[str]:
    """Every name that a run's optimizer may have: our own and those of timm's registry."""
    registry = timm_optimizers("of timm's registry").list_optimizers()
    return sorted({*OWN_OPTIMIZERS, *(name for name in registry if reason_left_out(name) is None)})


def reason_left_out(name: str) -> str | None:
    """Why the optimizer `name` cannot train here, None for all others."""
    return next((reason for pattern, reason in LEFT_OUT.items() if fnmatch(name, pattern)), None)


def registered(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class of `name` in timm's registry, and what the name stands for beyond its class.

    Raises ConfigError, with the nearest name, when the registry has no such optimizer or it cannot train here.
    """
    reason = reason_left_out(name)
    if reason is not None:
        raise ConfigError(f"option --optimizer.name {name} is left out of timm's optimizers here: {reason}")
    library, known = timm_optimizers(name), optimizer_names()
    if name not in known:
        raise ConfigError(
            f"option --optimizer.name {name!r} is none of {', '.join(OWN_OPTIMIZERS)} and none of timm's optimizers"
            f"{nearest(name, known)}"
        )
    return library.get_optimizer_class(name, bind_defaults=False), library.get_optimizer_info(name).defaults or {}


def options_read(name: str) -> list[str]:
    """Which of the options that not every optimizer has the optimizer `name` reads."""
    if name in OWN_OPTIMIZERS:
        return [*OWN_OPTIMIZERS[name], *(["momentum"] if name == "lamb" else [])]
    parameters = inspect.signature(registered(name)[0]).parameters
    return [option for option, keyword in KEYWORDS.items() if keyword in parameters]


def check_optimizer(options: OptimizerConfig) -> None:
    """Raises ConfigError for an optimizer that there is not, and for options given to one that does not read them."""
    reads = options_read(options.name)
    given = {name: getattr(options, name) for name in KEYWORDS if getattr(options, name) is not None}
    idle = [f"--optimizer.{name} {_shown(value)}" for name, value in given.items() if name not in reads]
    if idle:
        raise ConfigError(
            f"option{'s' if len(idle) > 1 else ''} {', '.join(idle)}: {options.name} has no such setting (it has "
            f"{', '.join([*reads, 'weight_decay'])}): leave out, or set to null where a recipe gives it"
        )
    if options.name == "lamb" and {"momentum", "betas"} <= given.keys():
        raise ConfigError(
            "options --optimizer.momentum and --optimizer.betas both set the first beta of lamb: leave out one"
        )
    if options.betas is not None:
        betas = (
            2
            if options.name in OWN_OPTIMIZERS
            else timm_optimizers(options.name).get_optimizer_info(options.name).num_betas
        )
        if len(options.betas) != betas:
            raise ConfigError(
                f"option --optimizer.betas must be {betas} numbers for {options.name}, not {_shown(options.betas)}"
            )


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value).lower()
