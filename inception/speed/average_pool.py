"""Average pooling on a GPU, in training, by operations of which torch.compile makes faster kernels.

With stride 1 and all places of a window counted, those of the padding too, pooling is its own gradient: a place lies in the
windows of those that lie in its own. torch's operation for the gradient finds every window's borders anew, for each place. A
window as large as 5x5 is no longer written out by torch.compile, but reduced, a few bytes at a time: it is averaged along one
side, then along the other.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception.speed.norm_operators import operator


def average_pool(pool: nn.AvgPool2d, x: Tensor) -> Tensor | None:
    """`pool` of x, (N, C, H, W) -> (N, C, H', W'); None where nothing is faster than `pool` itself."""
    kernel, stride, padding = pool.kernel_size, pool.stride, pool.padding
    if not (isinstance(kernel, int) and isinstance(stride, int) and isinstance(padding, int)):
        return None
    if pool.ceil_mode or pool.divisor_override:
        return None
    if stride == 1 and kernel == 2 * padding + 1 and pool.count_include_pad:
        return averaged(x, kernel)
    if kernel >= 5 and padding == 0:
        return averaged_by_sides(x, kernel, stride)
    return None


@operator()
def averaged(x: Tensor, kernel: int) -> Tensor:
    """The mean of `kernel` (odd) by `kernel` places around each of x, where those outside count as zeros."""
    return F.avg_pool2d(x, kernel, 1, kernel // 2)


@operator()
def averaged_by_sides(x: Tensor, kernel: int, stride: int) -> Tensor:
    """The mean of every window of `kernel` by `kernel`, all inside of x."""
    return F.avg_pool2d(F.avg_pool2d(x, (kernel, 1), (stride, 1)), (1, kernel), (1, stride))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.kernel = inputs


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
    return averaged(dy, ctx.kernel), None


def _keep_by_sides(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.kernel, ctx.stride = inputs
    ctx.save_for_backward(x)  # of which torch's gradient asks for the shape


def _backward_by_sides(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
    window = ([ctx.kernel] * 2, [ctx.stride] * 2, [0, 0], False, True, None)
    return torch.ops.aten.avg_pool2d_backward(dy, *ctx.saved_tensors, *window), None, None


averaged.register_autograd(_backward, setup_context=_keep)
averaged_by_sides.register_autograd(_backward_by_sides, setup_context=_keep_by_sides)
