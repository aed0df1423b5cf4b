"""The network that a run's options describe, with fresh or given weights."""

import importlib.util
import sys
from typing import Any

import torch

from engine.config.options import Config
from engine.training.fine_tuning import stages_to_freeze
from inception import create_model, load_weights
from inception.speed.sibling_convolutions import fuse
from inception.vocabulary.network import Network


def settle_fusion(config: Config, device: torch.device) -> None:
    """Writes into `config.network` what null means for fusion where that is measured: compiled steps on a GPU with Triton are
    faster with it (docs/performance.md). Else null stays, which stands for training on CPUs."""
    if device.type != "cuda" or not config.compile.enabled or importlib.util.find_spec("triton") is None:
        return
    for option in ("fuse", "fused_norm"):
        if getattr(config.network, option) is None:
            setattr(config.network, option, True)


def build_network(config: Config, num_classes: int) -> Network:
    """The run's network on the CPU, its fresh weights fixed by the seed; with `network.weights`, what fits of them.

    Raises NetworkError for an unknown network or weights that do not fit, ConfigError for a stage that it does not have.
    """
    names = ("auxiliary", "batch_norm", "dropout", "drop_path", "fused_norm", "pad_channels")
    given = {name: getattr(config.network, name) for name in names}
    options: dict[str, Any] = {"width": config.network.width}
    options |= {name: value for name, value in given.items() if value is not None}
    torch.manual_seed(config.run.seed)
    network = create_model(config.network.name, num_classes, **options)
    # Here null means where it is faster; create_model by itself merges nothing, to round as other people's networks do.
    fuse(network, config.network.fuse)
    if config.network.weights:
        line = load_weights(network, config.network.weights, fine_tune=True)
        print(line, file=sys.stderr)
    network.freeze(stages_to_freeze(config.network.freeze or "", network), config.network.freeze_batch_norm)
    return network
