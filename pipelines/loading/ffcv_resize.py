"""An antialiased bilinear resize of a box, compiled by numba: what FFCV's pipelines lack, as fast as their decoder.

The triangle filter of Pillow and torch, separable, in fixed point. Columns are blended first, into one row of 16-bit
values (8 bits of fraction); then each output pixel is a weighted sum of neighbours in that row, two pixels with all their
channels in one vector.
"""

from typing import Any

import numba.extending
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import models, register_model

_ONE_Y = 256  # the weights of a column add up to this: times 255 they fill 16 bits
_ONE_X = 65535  # those of a row to this; the lost 65536th is made up for when rounding
_ROUND = 129  # half of 256, and what the cut-off products lose on average

# What it makes is called without the first parameter, which numba supplies: no type checker knows.
intrinsic: Any = numba.extending.intrinsic
compiled = njit(nogil=True, error_model="numpy", cache=True)


class _Lanes(types.Type):
    """Eight unsigned 16-bit numbers in one vector register: two RGB pixels, and two numbers that do not count."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


_lanes = _Lanes()


def _vector(count: int, bits: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), count)


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _vector(8, 16))


def _pointer(context, builder, array_type, array, at, to: ir.Type) -> ir.Value:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), to.as_pointer())


@intrinsic
def _weighted(typing_context, row, at, weights, weights_at):
    """row[at : at + 8] * weights[weights_at : weights_at + 8] / 65536, of two uint16 arrays."""

    def generate(context, builder, signature, arguments):
        def load(number):
            kind, array, offset = signature.args[number], arguments[number], arguments[number + 1]
            loaded = builder.load(_pointer(context, builder, kind, array, offset, _vector(8, 16)), align=2)
            return builder.zext(loaded, _vector(8, 32))

        high = builder.lshr(builder.mul(load(0), load(2)), ir.Constant(_vector(8, 32), [16] * 8))
        return builder.trunc(high, _vector(8, 16))

    return _lanes(row, types.uintp, weights, types.uintp), generate


@intrinsic
def _plus(typing_context, first, second):
    def generate(context, builder, signature, arguments):
        return builder.add(*arguments)

    return _lanes(_lanes, _lanes), generate


@intrinsic
def _store_pixel(typing_context, lanes, out, at):
    """Adds the two pixels of `lanes`, rounds, and writes four bytes to out[at : at + 4]."""

    def generate(context, builder, signature, arguments):
        lanes, out, at = arguments

        def chosen(*places):
            mask = ir.Constant(_vector(4, 32), places)
            return builder.shuffle_vector(lanes, ir.Constant(_vector(8, 16), ir.Undefined), mask)

        total = builder.add(
            builder.add(chosen(0, 1, 2, 6), chosen(3, 4, 5, 7)), ir.Constant(_vector(4, 16), [_ROUND] * 4)
        )
        pixel = builder.trunc(builder.lshr(total, ir.Constant(_vector(4, 16), [8] * 4)), _vector(4, 8))
        builder.store(pixel, _pointer(context, builder, signature.args[1], out, at, pixel.type), align=1)
        return context.get_dummy_value()

    return types.void(_lanes, out, types.uintp), generate


@compiled
def most_taps(size, wanted):
    """The most pixels that the triangle filter blends into one, for `wanted` out of `size`."""
    return 2 if size <= wanted else int(2 * size / wanted) + 1


@compiled
def _fill_weights(size, wanted, one, flip, taps, starts, weights):
    """Where each output pixel's neighbours start, and their weights times `one`, `taps` of them, zero at the end.

    Rounded so that the weights of a pixel always add up to `one` (Pillow's Resample.c gives the support and centres).
    """
    scale = size / wanted
    reach = max(scale, 1.0)
    for x in range(wanted):
        centre = (x + 0.5) * scale
        low, high = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), size)
        total = 0.0
        for pixel in range(low, high):
            total += max(1.0 - abs((pixel + 0.5 - centre) / reach), 0.0)
        at = wanted - 1 - x if flip else x
        starts[at] = low
        so_far, done = 0.0, 0
        for tap in range(taps):
            upto = done
            if low + tap < high:
                so_far += max(1.0 - abs((low + tap + 0.5 - centre) / reach), 0.0) / total
                upto = int(so_far * one + 0.5)
            weights[at * taps + tap] = upto - done
            done = upto


@compiled
def _spread(weights, count, lanes):
    """Each pair of weights as a vector: one for the three channels of its pixel, the other for the next pixel's."""
    for pair in range(count // 2):
        for channel in range(3):
            lanes[8 * pair + channel] = weights[2 * pair]
            lanes[8 * pair + channel + 3] = weights[2 * pair + 1]
        lanes[8 * pair + 6] = lanes[8 * pair + 7] = 0


@compiled
def _blend_columns(pixels, at, pitch, count, lines, weights, first_weight, row):
    """row[:count] = the weighted sum of `lines` lines of `pixels`, `pitch` bytes apart, the first at `at`."""
    line, weight = pixels[at : at + count], weights[first_weight]
    if lines == 1:
        for j in range(count):
            row[j] = weight * line[j]
        return
    below, weight_below = pixels[at + pitch : at + pitch + count], weights[first_weight + 1]
    for j in range(count):
        row[j] = weight * line[j] + weight_below * below[j]
    for tap in range(2, lines):
        weight = weights[first_weight + tap]
        line = pixels[at + tap * pitch : at + tap * pitch + count]
        for j in range(count):
            row[j] += weight * line[j]


@compiled
def _blend_row(row, starts, weights, pairs, out, at, count):
    """Writes `count` RGB pixels from out[at] on, and one byte more."""
    if pairs == 1:  # enlarging; without the inner loop this is half as fast again
        for x in range(count):
            _store_pixel(_weighted(row, np.uintp(3 * starts[x]), weights, np.uintp(8 * x)), out, np.uintp(at + 3 * x))
        return
    for x in range(count):
        start, first_weight = np.uintp(3 * starts[x]), np.uintp(8 * pairs * x)
        lanes = _weighted(row, start, weights, first_weight)
        for pair in range(1, pairs):
            next_pair = _weighted(row, start + np.uintp(6 * pair), weights, first_weight + np.uintp(8 * pair))
            lanes = _plus(lanes, next_pair)
        _store_pixel(lanes, out, np.uintp(at + 3 * x))


@compiled
def resize_box(pixels, pitch, left, top, width, height, flip, out, size, scratch):
    """Blend the box (left, top, width, height in pixels) of an RGB image into out, uint8 (3 * size * size,), as `size`
    lines of `size` RGB pixels, mirrored left to right when `flip`.

    pixels: uint8, flat, lines `pitch` bytes apart; scratch: `ffcv_decode.Scratch`.
    """
    taps, pairs = most_taps(height, size), (most_taps(width, size) + 1) // 2
    _fill_weights(height, size, _ONE_Y, False, taps, scratch.starts_y, scratch.weights_y)
    _fill_weights(width, size, _ONE_X, flip, 2 * pairs, scratch.starts_x, scratch.weights_x)
    _spread(scratch.weights_x, 2 * pairs * size, scratch.lanes)
    for y in range(size):
        start = scratch.starts_y[y]
        at = (top + start) * pitch + 3 * left
        lines = min(taps, height - start)
        _blend_columns(pixels, at, pitch, 3 * width, lines, scratch.weights_y, y * taps, scratch.row)
        if y < size - 1:
            _blend_row(scratch.row, scratch.starts_x, scratch.lanes, pairs, out, 3 * size * y, size)
    # Of the last line the byte too many would lie beyond the image.
    _blend_row(scratch.row, scratch.starts_x, scratch.lanes, pairs, scratch.line, 0, size)
    out[3 * size * (size - 1) :] = scratch.line[: 3 * size]
