"""The switch of `norm_relu.py`: which units of a network have normalisation and ReLU in one piece."""

from __future__ import annotations

import importlib.util

from torch import nn

from inception.speed.block_levels import in_levels
from inception.speed.norm_relu import max_pool_on_gpu, norm_relu, norm_relu_on_cpu
from inception.vocabulary.modules import BranchesBlock, ConvUnit, MaxPool2d


def fuse_norms(network: nn.Module, enabled: bool | None = True) -> int:
    """Let the units of `network` compute in one piece where they can; return the number of units changed.

    `enabled` true is on CPUs and, with Triton installed, on GPUs, there a block's units together (`block_levels.py`) and
    maximum pooling (`max_pool.py`) beside; None on CPUs alone, where it is measured to be faster; false is nowhere, the units
    are plain again. State dicts are the same whatever it is.
    """
    with_triton = bool(enabled) and importlib.util.find_spec("triton") is not None
    chosen = norm_relu if with_triton else None if enabled is False else norm_relu_on_cpu
    changed = 0
    for module in network.modules():
        if isinstance(module, ConvUnit):
            module.norm_relu = chosen if module.bn is not None else None
            changed += module.norm_relu is not None
        elif isinstance(module, BranchesBlock):
            normed = all(unit.bn is not None for unit in module.modules() if isinstance(unit, ConvUnit))
            module.in_levels = in_levels if with_triton and normed else None
        elif isinstance(module, MaxPool2d):
            module.pooled = max_pool_on_gpu if with_triton else None
    return changed
