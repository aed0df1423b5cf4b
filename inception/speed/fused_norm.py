"""Batch normalisation and ReLU of a convolution unit in one piece, in training: in C on CPUs, as Triton kernels on GPUs.

What the two do, and why, is in `norm_cpu.c` and `norm_kernels.py`; the latter is the home of Triton here and imported when
it is asked for. Where neither serves, and under torch.compile on a CPU, PyTorch's own operations run.
"""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception.speed.norm_cpu import NormRelu, library, row_stride
from inception.vocabulary.modules import ConvUnit


def fuse_norms(network: nn.Module, enabled: bool | None = True) -> int:
    """Let the units of `network` compute in one piece where they can; return the number of units changed.

    `enabled` true is on CPUs and, with Triton installed, on GPUs; None on CPUs alone, where it is measured to be faster;
    false is nowhere, the units are plain again. State dicts are the same whatever it is.
    """
    with_triton = enabled and importlib.util.find_spec("triton") is not None
    chosen = norm_relu if with_triton else None if enabled is False else norm_relu_on_cpu
    changed = 0
    for unit in network.modules():
        if isinstance(unit, ConvUnit):
            unit.norm_relu = chosen if unit.bn is not None else None
            changed += unit.norm_relu is not None
    return changed


def norm_relu_on_cpu(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """ReLU of `bn` of `x`, (N, C, H, W) -> the same shape, in C on a CPU in training, else by PyTorch's operations."""
    real = type(x) is Tensor and x.is_cpu and not torch.compiler.is_compiling()  # an address to give to C
    if not real or not _takes_batch_statistics(bn, x):
        return F.relu(bn(x), inplace=True)
    if x.dtype not in (torch.bfloat16, torch.float32) or row_stride(x) is None or library()[0] is None:
        return F.relu(bn(x), inplace=True)
    assert bn.num_batches_tracked is not None
    bn.num_batches_tracked.add_(1)
    return NormRelu.apply(x, bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.momentum, bn.eps)


def norm_relu(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """ReLU of `bn` of `x`, (N, C, H, W) -> the same shape, with the kernels where `can_fuse` says that they serve."""
    if not can_fuse(bn, x):
        return norm_relu_on_cpu(bn, x)
    from inception.speed.norm_kernels import batch_statistics, normalise_relu

    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    assert bn.momentum is not None
    bn.num_batches_tracked.add_(1)
    mean, scale = batch_statistics(x.detach(), bn.running_mean, bn.running_var, bn.momentum, bn.eps)
    return normalise_relu(x, mean, scale, bn.weight, bn.bias)


def can_fuse(bn: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether the Triton kernels can do for `x` what `bn` would: of a channels-last tensor on a GPU, in training."""
    if not _takes_batch_statistics(bn, x) or x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return False
    from inception.speed.norm_kernels import INTERPRETED

    return (x.is_cuda or INTERPRETED) and row_stride(x) is not None


def _takes_batch_statistics(bn: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether `bn` normalises by the statistics of this process's batch alone, as plain BatchNorm2d does in training.

    SyncBN is another class, evaluation has nothing to reduce, statistics without a momentum are measured seldom; for one
    value a channel PyTorch has an error.
    """
    if type(bn) is not nn.BatchNorm2d or not bn.training or bn.momentum is None or bn.running_mean is None:
        return False
    return bn.affine and bn.weight.dtype == torch.float32 and x.numel() > x.shape[1]
