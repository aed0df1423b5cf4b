"""Triton kernels of batch normalisation and ReLU together, for activations in channels-last memory, as torch operators.

An activation is seen as a matrix of rows (one a pixel of an image) by channels; neighbouring rows may lie further apart
than they are wide, as those of a slice of a wider tensor do. bf16, fp16 or fp32 in and out; every sum in fp32.

Forward reads the activation once for the statistics, and once more to normalise while it writes the result. Backward
reads activation and gradient once for the two sums of a channel, and once more to write the gradient. Whether ReLU let a
number through is computed again from the activation, so that the result need not be read and no mask is kept: eight passes
over the activation, where a normalisation and a ReLU of their own make thirteen. The formulas are those of arXiv
1502.03167, Algorithm 1 and section 3.

The operators are opaque to torch.compile, which knows their shapes and gradients and keeps one graph around them. They
take their strides when they run, since a compiler may lay out tensors otherwise than they were traced.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from inception.speed.norm_cpu import row_stride

# Numbers that a program holds at once, and programs that share the rows when sums are made: eight or so for each
# multiprocessor of a large GPU. Constants, so that sums do not depend on the machine.
TILE = 4096
PROGRAMS = 1024
# Tiles are of that many channels, the widest that leaves at most a fifth of a tile empty; 16 are one sector of 32 bytes.
WIDTHS = (128, 64, 32, 16)
# Channels of a program that merges the partial sums of all others.
MERGED = 4


@triton.jit
def _rows_of(block, blocks, rows, ROWS: tl.constexpr):
    """How many rows program `block` of `blocks` sees, which takes every `blocks`-th tile of ROWS."""
    rounds = rows // (blocks * ROWS)
    left = rows - rounds * blocks * ROWS - block * ROWS
    return rounds * ROWS + tl.minimum(tl.maximum(left, 0), ROWS)


@triton.jit
def _statistics_kernel(x, partial, rows, channels, stride, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """A program's rows: their mean, and their squares' sum about it, into `partial` (programs, 2, channels)."""
    block, blocks = tl.program_id(0), tl.num_programs(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < channels
    # Sums are of differences from the first row: of the numbers themselves, a large mean would leave no digits.
    origin = tl.load(x + (block * ROWS).to(tl.int64) * stride + channel, mask=valid, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(block * ROWS, rows, blocks * ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & valid[None, :]
        place = row.to(tl.int64)[:, None] * stride + channel[None, :]
        difference = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - origin[None, :]
        difference = tl.where(inside, difference, 0.0)
        total += difference
        squares += difference * difference
    count = _rows_of(block, blocks, rows, ROWS).to(tl.float32)
    distance = tl.sum(total, 0) / count
    spread = tl.sum(squares, 0) - distance * distance * count
    tl.store(partial + (2 * block) * channels + channel, origin + distance, mask=valid)
    tl.store(partial + (2 * block + 1) * channels + channel, spread, mask=valid)


@triton.jit
def _merge_kernel(
    partial, mean, scale, running_mean, running_var, blocks, rows, channels, momentum, eps,
    ROWS: tl.constexpr, BLOCKS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """All programs' means and squares as one mean and 1 / standard deviation; moves the running statistics."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < channels
    block = tl.arange(0, BLOCKS)
    inside = (block < blocks)[:, None] & valid[None, :]
    place = (2 * block)[:, None] * channels + channel[None, :]
    means = tl.load(partial + place, mask=inside, other=0.0)
    spreads = tl.load(partial + place + channels, mask=inside, other=0.0)
    counts = tl.where(inside, _rows_of(block, blocks, rows, ROWS).to(tl.float32)[:, None], 0.0)
    count = rows.to(tl.float32)
    origin = tl.load(partial + channel, mask=valid, other=0.0)
    center = origin + tl.sum(counts * (means - origin[None, :]), 0) / count
    away = means - center[None, :]
    squares = tl.sum(spreads + counts * away * away, 0)
    variance = squares / count
    tl.store(mean + channel, center, mask=valid)
    tl.store(scale + channel, 1.0 / tl.sqrt(variance + eps), mask=valid)
    before = tl.load(running_mean + channel, mask=valid, other=0.0).to(tl.float32)
    tl.store(running_mean + channel, before + momentum * (center - before), mask=valid)
    before = tl.load(running_var + channel, mask=valid, other=0.0).to(tl.float32)
    tl.store(running_var + channel, before + momentum * (squares / (count - 1) - before), mask=valid)


@triton.jit
def _normalise_kernel(
    x, y, mean, scale, weight, bias, rows, channels, stride, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """y = relu((x - mean) * scale * weight + bias); y lies densely."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < channels
    inside = (row < rows)[:, None] & valid[None, :]
    row = row.to(tl.int64)[:, None]
    values = tl.load(x + row * stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    center = tl.load(mean + channel, mask=valid, other=0.0)
    gain = tl.load(scale + channel, mask=valid, other=0.0)
    gain *= tl.load(weight + channel, mask=valid, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=valid, other=0.0).to(tl.float32)
    z = (values - center[None, :]) * gain[None, :] + shift[None, :]
    # In this order, what is not a number stays so, and the run's check of its losses finds it.
    tl.store(y + row * channels + channel[None, :], tl.where(z <= 0.0, 0.0, z), mask=inside)


@triton.jit
def _sums_kernel(
    dy, x, mean, scale, weight, bias, partial, rows, channels, dy_stride, x_stride,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A program's sums of the gradient, and of the gradient times the normalised x, into `partial` (programs, 2, channels)."""
    block, blocks = tl.program_id(0), tl.num_programs(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < channels
    center = tl.load(mean + channel, mask=valid, other=0.0)
    unit = tl.load(scale + channel, mask=valid, other=0.0)
    gain = unit * tl.load(weight + channel, mask=valid, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=valid, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    products = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(block * ROWS, rows, blocks * ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & valid[None, :]
        row = row.to(tl.int64)[:, None]
        centered = tl.load(x + row * x_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        centered -= center[None, :]
        gradient = tl.load(dy + row * dy_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        gradient = tl.where(centered * gain[None, :] + shift[None, :] <= 0.0, 0.0, gradient)
        total += gradient
        products += gradient * centered
    tl.store(partial + (2 * block) * channels + channel, tl.sum(total, 0), mask=valid)
    tl.store(partial + (2 * block + 1) * channels + channel, tl.sum(products, 0) * unit, mask=valid)


@triton.jit
def _gradient_kernel(
    dy, x, dx, mean, scale, weight, bias, sums, rows, channels, dy_stride, x_stride,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx from the sums (2, channels); dx lies densely."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < channels
    inside = (row < rows)[:, None] & valid[None, :]
    row = row.to(tl.int64)[:, None]
    center = tl.load(mean + channel, mask=valid, other=0.0)
    unit = tl.load(scale + channel, mask=valid, other=0.0)
    gain = unit * tl.load(weight + channel, mask=valid, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=valid, other=0.0).to(tl.float32)
    count = rows.to(tl.float32)
    average = tl.load(sums + channel, mask=valid, other=0.0) / count
    slope = tl.load(sums + channels + channel, mask=valid, other=0.0) / count
    centered = tl.load(x + row * x_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    centered -= center[None, :]
    gradient = tl.load(dy + row * dy_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    gradient = tl.where(centered * gain[None, :] + shift[None, :] <= 0.0, 0.0, gradient)
    gradient = gain[None, :] * (gradient - average[None, :] - centered * (unit * slope)[None, :])
    tl.store(dx + row * channels + channel[None, :], gradient, mask=inside)


INTERPRETED = not isinstance(_merge_kernel, triton.JITFunction)  # TRITON_INTERPRET=1: on any device, slowly


def tile(channels: int) -> tuple[int, int]:
    """Rows and channels of a tile for an activation of that many channels; powers of two."""
    if channels <= WIDTHS[-1]:
        width = triton.next_power_of_2(channels)
    else:
        full = (w for w in WIDTHS if triton.cdiv(channels, w) * w <= 1.25 * channels)
        width = next(full, WIDTHS[-1])
    return TILE // width, width


@torch.library.custom_op("inception::batch_statistics", mutates_args=("running_mean", "running_var"))
def batch_statistics(
    x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of every channel of `x` (N, C, H, W), fp32 (C,); the running statistics move
    towards mean and variance (the latter without bias) by `momentum`."""
    x, stride, rows, channels, (height, width) = _matrix(x)
    blocks = _programs(rows, height, channels, width)
    partial = x.new_empty((blocks, 2, channels), dtype=torch.float32)
    mean, scale = (x.new_empty(channels, dtype=torch.float32) for _ in range(2))
    grid = (blocks, triton.cdiv(channels, width))
    _statistics_kernel[grid](x, partial, rows, channels, stride, ROWS=height, CHANNELS=width)
    _merge_kernel[(triton.cdiv(channels, MERGED),)](
        partial, mean, scale, running_mean, running_var, blocks, rows, channels, momentum, eps,
        ROWS=height, BLOCKS=triton.next_power_of_2(blocks), CHANNELS=MERGED,
    )  # fmt: skip
    return mean, scale


@batch_statistics.register_fake
def _(x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[1], dtype=torch.float32), x.new_empty(x.shape[1], dtype=torch.float32)


@torch.library.custom_op("inception::normalise_relu", mutates_args=())
def normalise_relu(x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """relu((x - mean) * scale * weight + bias) for `x` (N, C, H, W) and vectors (C,), as x in type, in channels-last
    memory. Differentiable by x, weight and bias, where mean and scale count as the batch statistics of x."""
    x, stride, rows, channels, (height, width) = _matrix(x)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    grid = (triton.cdiv(rows, height), triton.cdiv(channels, width))
    _normalise_kernel[grid](x, y, mean, scale, weight, bias, rows, channels, stride, ROWS=height, CHANNELS=width)
    return y


@normalise_relu.register_fake
def _(x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op("inception::normalise_relu_backward", mutates_args=())
def normalise_relu_backward(
    dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of x (N, C, H, W) and, as rows of one fp32 matrix (2, C), of bias and weight."""
    x, x_stride, rows, channels, (height, width) = _matrix(x)
    dy, dy_stride, *_ = _matrix(dy)
    blocks = _programs(rows, height, channels, width)
    partial = x.new_empty((blocks, 2, channels), dtype=torch.float32)
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    vectors, shape = (mean, scale, weight, bias), (rows, channels, dy_stride, x_stride)
    across = triton.cdiv(channels, width)
    _sums_kernel[blocks, across](dy, x, *vectors, partial, *shape, ROWS=height, CHANNELS=width)
    sums = partial.sum(0)
    grid = (triton.cdiv(rows, height), across)
    _gradient_kernel[grid](dy, x, dx, *vectors, sums, *shape, ROWS=height, CHANNELS=width)
    return dx, sums


@normalise_relu_backward.register_fake
def _(dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    sums = x.new_empty((2, x.shape[1]), dtype=torch.float32)
    return torch.empty_like(x, memory_format=torch.channels_last), sums


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, mean, scale, weight, bias = ctx.saved_tensors
    dx, sums = normalise_relu_backward(dy, x, mean, scale, weight, bias)
    return dx, None, None, sums[1].to(weight.dtype), sums[0].to(bias.dtype)


normalise_relu.register_autograd(_backward, setup_context=_keep)


def _matrix(x: Tensor) -> tuple[Tensor, int, int, int, tuple[int, int]]:
    """`x` where it lies as rows by channels, else a copy that does; its row stride, rows, channels, and tile."""
    stride = row_stride(x)
    if stride is None:
        x = x.contiguous(memory_format=torch.channels_last)
        stride = x.shape[1]
    channels = x.shape[1]
    return x, stride, x.numel() // channels, channels, tile(channels)


def _programs(rows: int, height: int, channels: int, width: int) -> int:
    """Programs among which sums share the rows; each has one at least."""
    return min(triton.cdiv(rows, height), max(1, PROGRAMS // triton.cdiv(channels, width)))
