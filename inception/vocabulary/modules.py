"""The modules that every Inception network is made of, besides PyTorch's own pooling layers.

`layers.py` describes networks as data; what is built from a description is made of these. Their attribute names are the
names in state dicts, so they never change: a convolution unit holds `conv` and `bn`, a set of branches holds `branch1`,
`branch2`, ..., a residual block holds `body` and `project`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Wide(Protocol):
    """A block whose sibling convolutions run as one (`speed/sibling_convolutions.py`): another way to the same output."""

    def serves(self, x: Tensor, training: bool) -> bool:
        """Whether `x` is to go this way."""

    def starts(self, x: Tensor) -> list[tuple[Tensor, nn.BatchNorm2d | None, tuple[nn.Module, ...]]]:
        """Of every branch: what follows from `x` by the merged convolutions, its normalisation to come, and the modules after."""

    def __call__(self, x: Tensor) -> Tensor: ...


class ConvUnit(nn.Module):
    """Convolution, batch normalisation (unless the network has none) and ReLU: the "Conv" box of every figure.

    Shapes: (N, in, H, W) -> (N, out, H', W').
    """

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.conv = conv
        self.bn = bn
        self.norm_relu: Callable[[nn.BatchNorm2d, Tensor], Tensor] | None = None  # set by speed/fused_norm.py

    def finish(self, x: Tensor, owned: bool = True) -> Tensor:
        """What follows the convolution: normalisation and ReLU; not in place if what it reads is not `owned`.

        Separate, so that convolutions that run as one (`speed/sibling_convolutions.py`) can share it.
        """
        if self.bn is not None:
            if self.norm_relu is not None:
                return self.norm_relu(self.bn, x)
            x = self.bn(x)
        # Neither a convolution nor a normalisation needs its own output in the backward pass.
        return F.relu(x, inplace=owned)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.conv(x))


class BranchesBlock(nn.Module):
    """Branches that read one input and are joined along the channels ("Filter concat" in the figures)."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.wide: Wide | None = None  # set by speed/sibling_convolutions.py
        self.in_levels: Callable[[BranchesBlock, Tensor], Tensor | None] | None = None  # set by speed/fused_norm.py
        for number, branch in enumerate(branches, start=1):
            self.add_module(f"branch{number}", branch)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.in_levels is not None and (joined := self.in_levels(self, x)) is not None:
            return joined
        if self.wide is not None and self.wide.serves(x, self.training):
            return self.wide(x)
        return torch.cat([branch(x) for branch in self._modules.values() if branch is not None], 1)


class ResidualBlock(nn.Module):
    """Input + scale * linear 1x1 convolution of the body, then ReLU unless it is switched off.

    Source: arXiv 1602.07261, Figure 20 (the scaling) and Figures 10 to 19 (the blocks).
    """

    def __init__(self, body: nn.Module, project: nn.Conv2d, scale: float, relu: bool) -> None:
        super().__init__()
        self.body = body
        self.project = project
        self.scale = scale
        self.relu = relu
        self.keep: Tensor | None  # how often the body counts in training; set by `set_drop_path`
        self.register_buffer("keep", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Rounded after each operation, as everyone's released weights were trained; in place, which saves two buffers.
        scaled = self.project(self.body(x)).mul_(self.scale)
        if self.training and self.keep is not None:
            chosen = torch.rand(len(x), 1, 1, 1, device=x.device) < self.keep
            scaled.mul_((chosen / self.keep).to(scaled.dtype))
        x = scaled.add_(x)
        return F.relu(x, inplace=True) if self.relu else x


def set_drop_path(network: nn.Module, rate: float) -> int:
    """Stochastic depth (arXiv 1603.09382, section 3): in training each residual block leaves its body out for an image with a
    probability that rises with its depth, in equal steps, to `rate` in the last; returns the number of blocks."""
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    for place, block in enumerate(blocks, start=1):
        # A tensor, so that blocks share their compiled graph.
        block.keep = torch.tensor(1.0 - rate * place / len(blocks))
    return len(blocks)


class AuxiliaryHead(nn.Module):
    """A side classifier in training: layers, global average, linear (arXiv 1512.00567, Figure 8).

    A feature map too small for the layers (images much smaller than the network's own size) is enlarged to the smallest
    that fits, so that the head sets no limit to the image size. Shapes: (N, C, H, W) -> (N, classes).
    """

    def __init__(self, features: nn.Module, channels: int, num_classes: int, smallest: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Linear(channels, num_classes)
        self.smallest = smallest

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height < self.smallest or width < self.smallest:
            x = F.interpolate(x, size=(max(height, self.smallest), max(width, self.smallest)))
        return self.classifier(self.features(x).mean((2, 3)))


class GridHead(nn.Module):
    """GoogLeNet's side classifier in training: average pooling to a grid, 1x1 convolution, two linear layers.

    Source: arXiv 1409.4842, section 5. Shapes: (N, C, H, W) -> (N, classes).
    """

    def __init__(
        self, unit: nn.Module, channels: int, *, grid: int, hidden: int, dropout: float, num_classes: int
    ) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.grid = grid
        self.unit = unit
        self.hidden = nn.Linear(channels * grid * grid, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        # Of the adaptive pooling, CUDA has no gradient that is the same every time.
        exact = x.is_cuda and torch.are_deterministic_algorithms_enabled()
        x = self.unit(grid_average(x, self.grid) if exact else self.pool(x)).flatten(1)
        return self.classifier(self.dropout(F.relu(self.hidden(x), inplace=True)))


def grid_average(x: Tensor, grid: int) -> Tensor:
    """nn.AdaptiveAvgPool2d(grid) as two matrix products: (N, C, H, W) -> (N, C, grid, grid)."""
    rows, columns = (_window_shares(length, grid).to(x) for length in x.shape[-2:])
    return rows @ x @ columns.T


def _window_shares(length: int, grid: int) -> Tensor:
    """(grid, length): the share that each of `length` places in a row has in the average of each window."""
    shares = torch.zeros(grid, length)
    for window in range(grid):
        start, stop = window * length // grid, -(-(window + 1) * length // grid)
        shares[window, start:stop] = 1 / (stop - start)
    return shares


class MaxPool2d(nn.MaxPool2d):
    """Maximum pooling: (N, C, H, W) -> (N, C, H', W')."""

    pooled: Callable[[nn.MaxPool2d, Tensor], Tensor | None] | None = None  # set by speed/fused_norm.py

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.pooled is not None and (result := self.pooled(self, x)) is not None:
            return result
        return super().forward(x)


class CoveringMaxPool2d(MaxPool2d):
    """Maximum pooling over all windows that start inside the input: (N, C, H, W) -> (N, C, ceil(H/s), ceil(W/s)).

    On even grids that is PyTorch's ceil mode; on odd ones it has a last window more, which its neighbours among a
    reduction's branches, convolutions with padding, have too.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__(kernel, stride, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2), value=-torch.inf)
        return super().forward(x)
