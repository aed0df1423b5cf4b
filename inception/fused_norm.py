"""Batch normalisation and ReLU of a convolution unit as Triton kernels, in training and on GPUs; elsewhere as it was.

What the kernels do, and why, is in `norm_kernels.py`, the home of Triton here, which is imported when they are asked for.
"""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception.modules import ConvUnit


def fuse_norms(network: nn.Module, enabled: bool = True) -> int:
    """Let the units of `network` use the kernels where they can, in place; return the number of units changed.

    None is where Triton is not installed. State dicts are the same either way. With `enabled` false the units are plain
    again.
    """
    available = enabled and importlib.util.find_spec("triton") is not None
    changed = 0
    for unit in network.modules():
        if isinstance(unit, ConvUnit):
            unit.norm_relu = norm_relu if available and unit.bn is not None else None
            changed += unit.norm_relu is not None
    return changed


def norm_relu(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """ReLU of `bn` of `x`, (N, C, H, W) -> the same shape, with the kernels where `can_fuse` says that they serve."""
    if not can_fuse(bn, x):
        return F.relu(bn(x), inplace=True)
    from inception.norm_kernels import batch_statistics, normalise_relu

    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    assert bn.momentum is not None
    bn.num_batches_tracked.add_(1)
    mean, scale = batch_statistics(x.detach(), bn.running_mean, bn.running_var, bn.momentum, bn.eps)
    return normalise_relu(x, mean, scale, bn.weight, bn.bias)


def can_fuse(bn: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether the kernels can do for `x` what `bn` would: batch statistics of this process alone, which plain
    BatchNorm2d takes in training, of a channels-last tensor on a GPU.

    SyncBN is another class, evaluation has nothing to reduce, statistics without a momentum are measured seldom; for one
    value a channel PyTorch has an error.
    """
    if type(bn) is not nn.BatchNorm2d or not bn.training or bn.momentum is None or bn.running_mean is None:
        return False
    if not bn.affine or x.dtype not in (torch.bfloat16, torch.float16, torch.float32) or x.numel() <= x.shape[1]:
        return False
    from inception.norm_kernels import INTERPRETED, row_stride

    return (x.is_cuda or INTERPRETED) and row_stride(x) is not None
