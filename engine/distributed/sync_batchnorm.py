"""Batch normalisation over the batch of all ranks (SyncBN), also where torch's own does not do: on CPUs, and in a compiled
graph, which it cuts at every layer (pytorch issue 161302)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all ranks together, over any backend that can all-reduce.

    Every rank must hold the same number of images, unless `uneven` says that they may not. Same parameters, buffers and state
    keys as nn.BatchNorm2d.
    """

    uneven = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), normalised per channel over N, H, W of all ranks."""
        if not self.training:
            return super().forward(x)
        ranks = dist.get_world_size()
        # The mean first, then squares of what is left of it: their difference from one exchange would lose digits.
        own: Tensor = x.float().mean(dim=(0, 2, 3))
        part: float | Tensor = 1.0  # of the images of all ranks, how many times its equal part this one has
        if self.uneven:
            told = sum_over_ranks(torch.cat([len(x) * own, own.new_full((1,), len(x))]))
            mean, part = told[:-1] / told[-1], len(x) * ranks / told[-1].detach()
        else:
            mean = sum_over_ranks(own) / ranks
        variance = sum_over_ranks(part * (x.float() - mean[:, None, None]).square().mean(dim=(0, 2, 3))) / ranks
        self._track(mean.detach(), variance.detach(), ranks / part * (x.numel() // x.shape[1]))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: float | Tensor) -> None:
        """Moves the running statistics, the variance without bias, as nn.BatchNorm2d does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


# An operator of its own, which torch.compile takes into its graph as it is. The all_reduce of torch.distributed.nn makes
# it give the whole graph up and run everything uncompiled.
@torch.library.custom_op("inception::sum_over_ranks", mutates_args=())
def sum_over_ranks(values: Tensor) -> Tensor:
    """`values` of any shape added up over the ranks, on every rank; every rank must call it. Differentiable."""
    total = values.clone()
    dist.all_reduce(total)
    return total


@sum_over_ranks.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)


def _sum_of_gradients(context: Any, gradient: Tensor) -> Tensor:
    return sum_over_ranks(gradient.contiguous())


sum_over_ranks.register_autograd(_sum_of_gradients)


def synchronise_batchnorm(module: nn.Module, device: torch.device, compiled: bool, uneven: bool = False) -> None:
    """Makes every BatchNorm2d in `module` a synchronised one, in place; parameters and state keys stay as they are. `uneven`:
    ranks may hold different numbers of images."""
    if device.type == "cuda" and not compiled:  # torch's own has kernels that a compiled graph need not have
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
            else:
                synchronise_batchnorm(child, device, compiled, uneven)
        return
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = SyncBatchNorm2d
            layer.uneven = uneven  # type: ignore[assignment]
