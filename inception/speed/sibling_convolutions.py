"""Blocks rewritten for speed without a change of what they compute: sibling 1x1 convolutions run as one wide one.

Most branches of a block begin with a 1x1 convolution of the block's input. Each is too narrow to keep a machine busy and
each reads the whole input again, so their kernels are put side by side and the input is read once. A branch that begins
with average pooling can join: pooling and a 1x1 convolution without bias are both linear and act on different axes, so
they commute, and the pooling then has fewer channels to go through.

Parameters stay where they are, in the units: names in state dicts, optimizers and gradients do not notice. It works on
the structure of blocks, not on any one network.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception.vocabulary.modules import BranchesBlock, ConvUnit


@dataclass(frozen=True)
class Head:
    """The beginning of a branch that can be merged: its 1x1 unit, the pooling that moves behind the convolution (None
    for most), and the rest of the branch."""

    unit: ConvUnit
    pool: nn.AvgPool2d | None
    rest: tuple[nn.Module, ...]


class WideBranches:
    """What replaces the forward pass of a `BranchesBlock` whose heads are merged: (N, C, H, W) -> (N, C', H, W).

    Everywhere, or only where it is measured to be faster: in training on CPUs."""

    def __init__(self, paths: list[Head | nn.Module], everywhere: bool = True) -> None:
        self.paths = paths
        self.everywhere = everywhere
        self.units = [path.unit for path in paths if isinstance(path, Head)]
        self.widths = [unit.conv.out_channels for unit in self.units]

    def serves(self, x: Tensor, training: bool) -> bool:
        """Whether `x` is to go this way."""
        return self.everywhere or (training and x.is_cpu)

    def __call__(self, x: Tensor) -> Tensor:
        parts = self._merged(x)
        return torch.cat(
            [self._finish(path, next(parts)) if isinstance(path, Head) else path(x) for path in self.paths], 1
        )

    def starts(self, x: Tensor) -> list[tuple[Tensor, nn.BatchNorm2d | None, tuple[nn.Module, ...]]]:
        """Of every branch: its part of the wide convolution, pooled if it is to be, with the normalisation and the modules that
        follow; of others `x`, none, and the modules."""
        parts = self._merged(x)
        starts: list[tuple[Tensor, nn.BatchNorm2d | None, tuple[nn.Module, ...]]] = []
        for path in self.paths:
            if not isinstance(path, Head):
                starts.append((x, None, modules_of(path)))
                continue
            part = next(parts)
            starts.append((part if path.pool is None else path.pool(part), path.unit.bn, path.rest))
        return starts

    def _merged(self, x: Tensor) -> Iterator[Tensor]:
        weight = torch.cat([unit.conv.weight for unit in self.units])
        biases = [unit.conv.bias for unit in self.units if unit.conv.bias is not None]
        return iter(F.conv2d(x, weight, torch.cat(biases) if biases else None).split(self.widths, 1))

    def _finish(self, head: Head, x: Tensor) -> Tensor:
        if head.pool is not None:
            x = head.pool(x)
        x = head.unit.finish(x, owned=head.unit.bn is not None)
        for module in head.rest:
            x = module(x)
        return x


def fuse(network: nn.Module, enabled: bool | None = True) -> int:
    """Merge the sibling 1x1 convolutions of every block of `network`, in place; return the number of blocks changed.

    `enabled` true is everywhere, None in training on CPUs alone, where it is measured to be faster; with false the blocks
    run branch by branch again. State dicts are the same whatever it is.
    """
    changed = 0
    for module in network.modules():
        if isinstance(module, BranchesBlock):
            module.wide = None if enabled is False else wide_branches(module, everywhere=bool(enabled))
            changed += module.wide is not None
    return changed


def wide_branches(block: BranchesBlock, everywhere: bool = True) -> WideBranches | None:
    """The merged form of a block; None when fewer than two of its branches can be merged."""
    paths = [head_of(branch) or branch for branch in block.children()]
    return WideBranches(paths, everywhere) if sum(isinstance(path, Head) for path in paths) > 1 else None


def head_of(branch: nn.Module) -> Head | None:
    """The mergeable beginning of a branch, None when it begins with anything else."""
    parts = modules_of(branch)
    pool = parts[0] if isinstance(parts[0], nn.AvgPool2d) and keeps_size(parts[0]) else None
    unit, rest = (parts[1], parts[2:]) if pool is not None and len(parts) > 1 else (parts[0], parts[1:])
    if not isinstance(unit, ConvUnit) or unit.conv.kernel_size != (1, 1) or unit.conv.stride != (1, 1):
        return None
    if pool is not None and unit.conv.bias is not None:
        return None  # the bias would be pooled with the zeros around the image
    return Head(unit, pool, rest)


def modules_of(branch: nn.Module) -> tuple[nn.Module, ...]:
    """What a branch is made of, in order."""
    return tuple(branch.children()) if isinstance(branch, nn.Sequential) else (branch,)


def keeps_size(pool: nn.AvgPool2d) -> bool:
    """Whether an average pooling has stride 1."""
    return pool.stride in (1, (1, 1))
