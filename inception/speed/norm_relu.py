"""Batch normalisation and ReLU of convolution units in one piece, in training: in C on CPUs, as Triton kernels on GPUs.

What the two do, and why, is in `norm_cpu.c` and `norm_kernels.py`; the operators of the latter are imported when they are
asked for, since Triton may be missing. Where neither serves, and under torch.compile on a CPU, PyTorch's own operations run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception.speed.norm_cpu import NormRelu, library, row_stride


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
    from inception.speed.norm_operators import normalise_relu

    return normalise_relu([x], _moments([bn], [x]), [bn.weight], [bn.bias])[0]


def norm_relu_of_all(bns: Sequence[nn.BatchNorm2d], xs: Sequence[Tensor]) -> list[Tensor]:
    """`norm_relu` of every pair, in one go where one launch can take them all."""
    if not _go_together(bns, xs):
        return [norm_relu(bn, x) for bn, x in zip(bns, xs, strict=True)]
    from inception.speed.norm_operators import normalise_relu

    return normalise_relu(list(xs), _moments(bns, xs), [bn.weight for bn in bns], [bn.bias for bn in bns])


def norm_relu_joined(bns: Sequence[nn.BatchNorm2d | None], xs: Sequence[Tensor]) -> Tensor:
    """`norm_relu` of every pair, and what has no normalisation as it is, joined along the channels, in the order given;
    written where it belongs, without a copy, where one launch can take them all."""
    pairs = [(bn, x) for bn, x in zip(bns, xs, strict=True) if bn is not None]
    if not pairs or not _go_together([bn for bn, _ in pairs], xs):
        return torch.cat([x if bn is None else norm_relu(bn, x) for bn, x in zip(bns, xs, strict=True)], 1)
    from inception.speed.norm_operators import normalise_relu_joined

    columns = [sum(x.shape[1] for x in xs[:place]) for place in range(len(xs))]
    order = sorted(range(len(xs)), key=lambda place: bns[place] is None)  # what is copied comes last
    normed = [bn for bn, _ in pairs]
    moments = _moments(normed, [x for _, x in pairs])
    return normalise_relu_joined(
        [xs[place] for place in order], moments, [bn.weight for bn in normed], [bn.bias for bn in normed],
        [columns[place] for place in order],
    )  # fmt: skip


def max_pool_on_gpu(pool: nn.MaxPool2d, x: Tensor) -> Tensor | None:
    """`pool` of `x` by the kernels of `max_pool.py`; None where they do not serve."""
    if not kernels_serve(x):
        return None
    from inception.speed.max_pool import max_pool

    return max_pool(pool, x)


def can_fuse(bn: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether the Triton kernels can do for `x` what `bn` would: of a channels-last tensor on a GPU, in training."""
    if not _takes_batch_statistics(bn, x) or x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return False
    return kernels_serve(x) and row_stride(x) is not None


def kernels_serve(x: Tensor) -> bool:
    """Whether `x` lies where Triton kernels run."""
    from inception.speed.norm_kernels import INTERPRETED

    return x.is_cuda or INTERPRETED


def _go_together(bns: Sequence[nn.BatchNorm2d], xs: Sequence[Tensor]) -> bool:
    """Whether one launch can take all of `xs`, of which `bns` are the normalisations."""
    from inception.speed.norm_kernels import PARTS

    alike = {(x.shape[0], x.shape[2:], x.dtype, x.device) for x in xs}
    if len(alike) > 1 or len({(bn.momentum, bn.eps) for bn in bns}) > 1 or len(xs) > PARTS:
        return False
    return all(can_fuse(bn, xs[0]) for bn in bns) and all(row_stride(x) is not None for x in xs)


def _moments(bns: Sequence[nn.BatchNorm2d], xs: Sequence[Tensor]) -> Tensor:
    """How each of `xs` is normalised; moves the running statistics of `bns`."""
    from inception.speed.norm_operators import batch_moments

    vectors = [
        (bn.weight.detach(), bn.bias.detach(), bn.running_mean, bn.running_var, bn.num_batches_tracked) for bn in bns
    ]
    assert bns[0].momentum is not None
    return batch_moments([x.detach() for x in xs], *map(list, zip(*vectors)), bns[0].momentum, bns[0].eps)


def _takes_batch_statistics(bn: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether `bn` normalises by the statistics of this process's batch alone, as plain BatchNorm2d does in training.

    SyncBN is another class, evaluation has nothing to reduce, statistics without a momentum are measured seldom; for one
    value a channel PyTorch has an error.
    """
    if type(bn) is not nn.BatchNorm2d or not bn.training or bn.momentum is None or bn.running_mean is None:
        return False
    return bn.affine and bn.weight.dtype == torch.float32 and x.numel() > x.shape[1]
