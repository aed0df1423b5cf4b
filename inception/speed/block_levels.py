"""A block level by level: all branches as far as their next normalisation, then these normalisations in one launch.

Branch by branch, each convolution is followed by kernels of its own, most of them too small to fill a GPU. Side by side, a
level of a block needs as many launches as one unit does. What comes last in every branch is normalised together too, into
the block's output, so that nothing is left to concatenate.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from inception.speed.norm_relu import kernels_serve, norm_relu_joined, norm_relu_of_all
from inception.speed.sibling_convolutions import modules_of
from inception.vocabulary.modules import BranchesBlock, ConvUnit


@dataclass
class Path:
    """A branch on its way: what it has computed, the normalisation that this waits for, and the modules to come."""

    x: Tensor
    bn: nn.BatchNorm2d | None
    rest: tuple[nn.Module, ...]


def in_levels(block: BranchesBlock, x: Tensor) -> Tensor | None:
    """The output of `block` for x, (N, C, H, W) -> (N, C', H', W'); None where the kernels do not serve."""
    if not kernels_serve(x):
        return None
    if block.wide is not None and block.wide.serves(x, training=True):
        paths = [Path(start, bn, rest) for start, bn, rest in block.wide.starts(x)]
    else:
        paths = [Path(x, None, modules_of(branch)) for branch in block.children()]
    while True:
        paths = [ended for path in paths for ended in _to_next_norm(path)]
        inner = [path for path in paths if path.bn is not None and path.rest]
        if not inner:
            return norm_relu_joined([path.bn for path in paths], [path.x for path in paths])
        for size in dict.fromkeys(path.x.shape[2:] for path in inner):
            level = [path for path in inner if path.x.shape[2:] == size]
            results = norm_relu_of_all([path.bn for path in level if path.bn is not None], [path.x for path in level])
            for path, result in zip(level, results, strict=True):
                path.x, path.bn = result, None


def _to_next_norm(path: Path) -> list[Path]:
    """`path` as far as its next normalisation, or its end; several paths where it ends in branches."""
    while path.bn is None and path.rest:
        step, *rest = path.rest
        if isinstance(step, BranchesBlock) and not rest:
            return [end for branch in step.children() for end in _to_next_norm(Path(path.x, None, modules_of(branch)))]
        if isinstance(step, ConvUnit) and step.bn is not None:
            path = Path(step.conv(path.x), step.bn, tuple(rest))
        else:
            path = Path(step(path.x), None, tuple(rest))
    return [path]
