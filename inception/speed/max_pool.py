"""Maximum pooling of activations in channels-last memory on a GPU, in training, as two Triton kernels.

Forward keeps a byte a result: the place in the window where it came from. Backward asks of every input which of the windows
that hold it took it: the gradient is written once, in its own type, where a scatter over fp32 zeros moves it several times.
Windows, padding and what is not a number are as in torch.nn.MaxPool2d.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from inception.speed.norm_cpu import row_stride
from inception.speed.norm_operators import activation, dense, launch, operator, tile, tiles

# Numbers that a program holds at once, forward and backward: the fastest of those tried on an H100.
_TILE, _GRADIENT_TILE = 512, 2048


@triton.jit
def pool_kernel(
    x, y, taken, rows, channels, x_stride, height: tl.constexpr, width: tl.constexpr, out_height: tl.constexpr,
    out_width: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """The largest of every window, and its place there, as rows (one a result) by channels. Sizes are constants, since
    every row is divided by them."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    image = row // (out_height * out_width)
    top = (row // out_width) % out_height * STRIDE - PADDING
    left = row % out_width * STRIDE - PADDING
    best = tl.full((ROWS, CHANNELS), float("-inf"), tl.float32)
    place = tl.zeros((ROWS, CHANNELS), tl.int32)
    for tap in tl.static_range(KERNEL * KERNEL):
        down, across = top + tap // KERNEL, left + tap % KERNEL
        there = (down >= 0) & (down < height) & (across >= 0) & (across < width)
        pixel = ((image * height + down) * width + across).to(tl.int64)
        value = tl.load(
            x + pixel[:, None] * x_stride + channel[None, :], mask=inside & there[:, None], other=float("-inf")
        ).to(tl.float32)
        better = (value > best) | (value != value)
        best = tl.where(better, value, best)
        place = tl.where(better, tap, place)
    at = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(y + at, best, mask=inside)
    tl.store(taken + at, place.to(tl.int8), mask=inside)


@triton.jit
def pool_gradient_kernel(
    dy, taken, dx, rows, channels, dy_stride, height: tl.constexpr, width: tl.constexpr, out_height: tl.constexpr,
    out_width: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Each input's gradient: the sum over the windows that took it, as rows (one an input) by channels."""
    # As many windows hold an input, along a side, as steps of STRIDE fit into one.
    WINDOWS: tl.constexpr = (KERNEL + STRIDE - 1) // STRIDE
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    image = row // (height * width)
    down = (row // width) % height + PADDING
    across = row % width + PADDING
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for window in tl.static_range(WINDOWS * WINDOWS):
        top, left = down // STRIDE - window // WINDOWS, across // STRIDE - window % WINDOWS
        in_down, in_across = down - top * STRIDE, across - left * STRIDE
        there = (top >= 0) & (left >= 0) & (top < out_height) & (left < out_width)
        there = there & (in_down < KERNEL) & (in_across < KERNEL)
        tap = (in_down * KERNEL + in_across)[:, None]
        result = ((image * out_height + top) * out_width + left).to(tl.int64)
        mask = inside & there[:, None]
        from_here = tl.load(taken + result[:, None] * channels + channel[None, :], mask=mask, other=-1) == tap
        # Read whole, since a condition on every number would read them one by one.
        gradient = tl.load(dy + result[:, None] * dy_stride + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.where(from_here, gradient, 0.0)
    tl.store(dx + row.to(tl.int64)[:, None] * channels + channel[None, :], total, mask=inside)


def max_pool(pool: nn.MaxPool2d, x: Tensor) -> Tensor | None:
    """`pool` of x, (N, C, H, W) -> (N, C, H', W'), by the kernels; None where they do not serve."""
    if pool.dilation not in (1, (1, 1)) or pool.return_indices or row_stride(x) is None:
        return None
    kernel, stride, padding = pool.kernel_size, pool.stride, pool.padding
    if not (isinstance(kernel, int) and isinstance(stride, int) and isinstance(padding, int)):
        return None
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return None
    height, width = (_windows(length, kernel, stride, padding, pool.ceil_mode) for length in x.shape[2:])
    return pooled(x, [height, width], kernel, stride, padding)[0]


@operator()
def pooled(x: Tensor, size: list[int], kernel: int, stride: int, padding: int) -> list[Tensor]:
    """The largest of every window of x (N, C, H, W) and, as int8, its place in the window: both (N, C, *size)."""
    x = dense(x)
    images, channels, height, width = x.shape
    y = activation(x, channels, size)
    taken = activation(x, channels, size, torch.int8)
    rows, (ROWS, CHANNELS) = images * size[0] * size[1], tile([channels], _TILE)
    launch(
        pool_kernel, (tiles(rows, ROWS), tiles(channels, CHANNELS)), x, y, taken, rows, channels, row_stride(x), height,
        width, *size, KERNEL=kernel, STRIDE=stride, PADDING=padding, ROWS=ROWS, CHANNELS=CHANNELS,
    )  # fmt: skip
    return [y, taken]


@operator()
def pooled_backward(dy: Tensor, taken: Tensor, size: list[int], kernel: int, stride: int, padding: int) -> Tensor:
    """The gradient of `pooled`'s input, whose last sides are `size`."""
    dy = dense(dy)
    images, channels, *out = dy.shape
    dx = activation(dy, channels, size)
    rows, (ROWS, CHANNELS) = images * size[0] * size[1], tile([channels], _GRADIENT_TILE)
    launch(
        pool_gradient_kernel, (tiles(rows, ROWS), tiles(channels, CHANNELS)), dy, taken, dx, rows, channels,
        row_stride(dy), *size, *out, KERNEL=kernel, STRIDE=stride, PADDING=padding, ROWS=ROWS, CHANNELS=CHANNELS,
    )  # fmt: skip
    return dx


def _windows(length: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    """How many windows torch.nn.MaxPool2d has along a side."""
    room = length + 2 * padding - kernel
    count = (-(-room // stride) if ceil else room // stride) + 1
    # With ceil mode, one that would begin in the padding behind is left out.
    return count - 1 if ceil and (count - 1) * stride >= length + padding else count


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, _, *ctx.window = inputs
    ctx.size = list(x.shape[2:])
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, gradients: list[Tensor]) -> tuple[Tensor | None, ...]:
    (taken,) = ctx.saved_tensors
    return pooled_backward(gradients[0], taken, ctx.size, *ctx.window), None, None, None, None


pooled.register_autograd(_backward, setup_context=_keep)
