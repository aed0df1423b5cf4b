"""Batch normalisation over the batch of all ranks (SyncBN), also where torch's own does not run: on CPUs."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class CpuSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all ranks together, over any backend that can all-reduce.

    Every rank must hold the same number of images. Same parameters, buffers and state keys as nn.BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), normalised per channel over N, H, W of all ranks."""
        if not self.training:
            return super().forward(x)
        ranks = dist.get_world_size()
        # The mean first, then squares of what is left of it: their difference from one exchange would lose digits.
        mean = all_reduce(x.float().mean(dim=(0, 2, 3))) / ranks
        variance = all_reduce((x.float() - mean[:, None, None]).square().mean(dim=(0, 2, 3))) / ranks
        self._track(mean.detach(), variance.detach(), ranks * x.numel() // x.shape[1])
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics, the variance without bias, as nn.BatchNorm2d does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Makes every BatchNorm2d in `module` a synchronised one, in place; parameters and state keys stay as they are."""
    if device.type == "cuda":
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
            else:
                synchronise_batchnorm(child, device)
        return
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = CpuSyncBatchNorm2d
