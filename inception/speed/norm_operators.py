"""The Triton kernels of normalisation and ReLU as torch operators, which torch.compile takes apart: inductor sees every
launch, so that it allocates for it, orders it, and records it in CUDA graphs.

An operator takes up to PARTS activations (N, C, H, W) that share all but C. Where their memory is not that of a matrix of
rows by channels it is copied first.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from inception.speed import norm_kernels as kernels
from inception.speed.norm_cpu import row_stride
from inception.speed.norm_kernels import INTERPRETED, PARTS

# Numbers that a program holds at once.
TILE = 4096
# The same where sums are made; programs that share the rows there, four or so for each multiprocessor of a large GPU; warps of
# a program; and tiles that it has on their way at once. The fastest together of those tried on an H100 (docs/performance.md),
# and constants, so that sums do not depend on the machine.
SUM_TILE, PROGRAMS, WARPS, STAGES = 2048, 512, 4, 3
# Tiles are of that many channels, the widest that leaves at most a fifth of a tile empty; 16 are one sector of 32 bytes.
WIDTHS = (128, 64, 32, 16)
# Channels of a program that merges the partial sums of all others.
MERGED = 4


def tiles(count: int, size: int) -> int:
    """How many tiles of `size` cover `count`."""
    return -(-count // size)


def power_of_2(count: int) -> int:
    """The first one that is not below `count`."""
    return 1 << (count - 1).bit_length()


def tile(channels: Sequence[int], numbers: int = 0) -> tuple[int, int]:
    """Rows and channels of a tile for parts of that many channels; powers of two. `numbers`: how many it has, else TILE."""
    if max(channels) <= WIDTHS[-1]:
        width = power_of_2(max(channels))
    else:
        full = (w for w in WIDTHS if sum(tiles(c, w) for c in channels) * w <= 1.25 * sum(channels))
        width = next(full, WIDTHS[-1])
    return (numbers or TILE) // width, width


def operator(*, mutates_args: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Makes a torch operator of a function that launches kernels; an opaque one where they are interpreted."""

    def declare(function: Callable[..., Any]) -> Any:
        name = f"inception::{function.__name__}"
        if not INTERPRETED:
            return torch.library.triton_op(name, function, mutates_args=mutates_args)
        operator = torch.library.custom_op(name, function, mutates_args=mutates_args)
        operator.register_fake(function)
        return operator

    return declare


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    if not INTERPRETED:
        torch.library.wrap_triton(kernel)[grid](*arguments, **constants)
    elif not any(isinstance(argument, FakeTensor) for argument in arguments):
        kernel[grid](*arguments, **constants)


@operator(mutates_args=("running_means", "running_vars", "counters"))
def batch_moments(
    xs: list[Tensor], weights: list[Tensor], biases: list[Tensor], running_means: list[Tensor],
    running_vars: list[Tensor], counters: list[Tensor], momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    """How each part of `xs` is normalised by its own statistics: fp32 (4, channels of all), see `norm_kernels`. The running
    statistics move towards mean and variance (the latter without bias) by `momentum`; counters (int64, scalars) by one."""
    parts = _Parts(xs)
    partial, moments = parts.vector(parts.blocks, 2, parts.channels), parts.vector(4, parts.channels)
    shape = (parts.rows, parts.channels)
    grid = (parts.blocks, parts.across)
    launch(
        kernels.statistics_kernel, grid, *parts.xs, *parts.widths, *parts.strides, partial, *shape, COUNT=len(xs),
        ROWS=parts.sum_height, CHANNELS=parts.width, STAGES=STAGES, num_warps=WARPS,
    )  # fmt: skip
    vectors = [v for given in (weights, biases, running_means, running_vars, counters) for v in _padded(given, xs[0])]
    launch(
        kernels.moments_kernel, (sum(tiles(c, MERGED) for c in parts.widths),), partial, moments, *vectors,
        *parts.widths, parts.blocks, *shape, MOMENTUM=momentum, EPS=eps, COUNT=len(xs), ROWS=parts.sum_height,
        BLOCKS=power_of_2(parts.blocks), CHANNELS=MERGED,
    )  # fmt: skip
    return moments


@operator()
def normalise_relu(xs: list[Tensor], moments: Tensor, weights: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
    """relu((x - mean) * scale * weight + bias) of every part, of its type, in channels-last memory. Differentiable by xs,
    weights and biases, where `moments` counts as made from them."""
    parts = _Parts(xs)
    ys = [activation(x, x.shape[1]) for x in xs]
    _normalise(parts, ys, [0] * len(xs), moments, normed=len(xs), joined=False)
    return ys


@operator()
def normalise_relu_joined(
    xs: list[Tensor], moments: Tensor, weights: list[Tensor], biases: list[Tensor], columns: list[int]
) -> Tensor:
    """The same as channels of one tensor (N, C of all, H, W): part i from channel `columns[i]` on. `moments`, weights and
    biases are of the first parts alone; the others are copied as they are."""
    parts = _Parts(xs)
    y = activation(xs[0], parts.channels)
    _normalise(parts, [y], columns, moments, normed=len(weights), joined=True)
    return y


@operator()
def normalise_relu_backward(dys: list[Tensor], columns: list[int], xs: list[Tensor], moments: Tensor) -> list[Tensor]:
    """The gradients of every x and, as rows of one fp32 matrix (2, channels of all), of the biases and weights. That of part i
    of the results begins at channel `columns[i]` of `dys[i]`, which may be one tensor for all."""
    parts = _Parts(xs)
    given = [dense(dy) for dy in dys]
    partial, sums = parts.vector(parts.blocks, 2, parts.channels), parts.vector(2, parts.channels)
    strides = _padded([row_stride(dy) for dy in given], 0)
    read = (*_padded(given, given[0]), *parts.xs, *parts.widths, *_padded(columns, 0), *strides, *parts.strides)
    shape = (parts.rows, parts.channels)
    launch(
        kernels.sums_kernel, (parts.blocks, parts.across), *read, moments, partial, *shape, COUNT=len(xs),
        ROWS=parts.sum_height, CHANNELS=parts.width, STAGES=STAGES, num_warps=WARPS,
    )  # fmt: skip
    launch(
        kernels.total_kernel, (tiles(2 * parts.channels, MERGED),), partial, sums, parts.blocks,
        2 * parts.channels, BLOCKS=power_of_2(parts.blocks), COLUMNS=MERGED,
    )  # fmt: skip
    # With their type, which changes nothing: torch 2.11 takes empty tensors that are made alike for one and the same, so that
    # results and gradients of x would share memory and be copied out of it.
    dxs = [activation(x, x.shape[1], dtype=x.dtype) for x in xs]
    launch(
        kernels.gradient_kernel, (tiles(parts.rows, parts.height), parts.across), *read, *_padded(dxs, xs[0]),
        moments, sums, *shape, COUNT=len(xs), ROWS=parts.height, CHANNELS=parts.width,
    )  # fmt: skip
    return [*dxs, sums]


def _normalise(
    parts: "_Parts", ys: list[Tensor], columns: list[int], moments: Tensor, *, normed: int, joined: bool
) -> None:
    launch(
        kernels.normalise_kernel, (tiles(parts.rows, parts.height), parts.across), *parts.xs, *parts.widths,
        *parts.strides, *_padded(ys, parts.xs[0]), *_padded(columns, 0), moments, parts.rows, moments.shape[1],
        parts.channels, NORMED=normed, JOINED=joined, COUNT=parts.count, ROWS=parts.height, CHANNELS=parts.width,
    )  # fmt: skip


class _Parts:
    """Activations as the kernels see them: matrices with row strides, as many as there can be; and what tiles they have."""

    def __init__(self, given: list[Tensor]) -> None:
        xs = [dense(x) for x in given]
        widths = [x.shape[1] for x in xs]
        self.count = len(xs)
        self.xs = _padded(xs, xs[0])
        self.widths: list[int] = _padded(widths, 0)
        self.strides: list[int] = _padded([row_stride(x) for x in xs], 0)
        self.channels = sum(widths)
        self.rows = xs[0].numel() // widths[0]
        self.height, self.width = tile(widths)
        self.sum_height, _ = tile(widths, SUM_TILE)
        self.across = sum(tiles(width, self.width) for width in widths)
        # Each program has a row at least.
        self.blocks = min(tiles(self.rows, self.sum_height), max(1, PROGRAMS // self.across))

    def vector(self, *shape: int) -> Tensor:
        return self.xs[0].new_empty(shape, dtype=torch.float32)


def activation(like: Tensor, channels: int, size: Sequence[int] = (), dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised activation in channels-last memory, like another but for what is given. Its strides are spelled out:
    inductor may lay an empty tensor of a memory format out otherwise, and then copies what was written into it."""
    height, width = size or like.shape[2:]
    strides = (height * width * channels, 1, width * channels, channels)
    return like.new_empty_strided((like.shape[0], channels, height, width), strides, dtype=dtype)


def dense(x: Tensor) -> Tensor:
    """`x` where it lies as rows by channels, else a copy that does."""
    return x if row_stride(x) is not None else x.contiguous(memory_format=torch.channels_last)


def _padded(values: Sequence[Any], filler: Any) -> list[Any]:
    """`values` and, in place of the parts that are not there, `filler`."""
    return [*values, *[filler] * (PARTS - len(values))]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    xs, moments, weights, _, *columns = inputs
    ctx.parts, ctx.columns = len(xs), columns[0] if columns else None
    ctx.widths = [len(weight) for weight in weights]
    ctx.save_for_backward(*xs[: len(weights)], moments)


def _backward(ctx: Any, dys: list[Tensor], columns: list[int] | None = None) -> tuple[Any, ...]:
    *xs, moments = ctx.saved_tensors
    *dxs, sums = normalise_relu_backward(dys, columns or [0] * len(xs), xs, moments)
    dbiases, dweights = (list(row.split(ctx.widths)) for row in sums.unbind(0))
    return dxs, None, dweights, dbiases


def _backward_joined(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    normed = len(ctx.widths)
    dxs, _, dweights, dbiases = _backward(ctx, [dy] * normed, ctx.columns[:normed])
    ends = dict(pairwise([*sorted(ctx.columns), dy.shape[1]]))
    copied = [dy[:, column : ends[column]] for column in ctx.columns[normed:]]
    return [*dxs, *copied], None, dweights, dbiases, None


normalise_relu.register_autograd(_backward, setup_context=_keep)
normalise_relu_joined.register_autograd(_backward_joined, setup_context=_keep)
