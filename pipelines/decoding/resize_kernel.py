"""A Triton kernel that makes squares of RGB pixels of staged planes (staging.py), by the same filter as fast_resize.h.

A program makes a tile of one square. For each column of the image that its filter sees it combines the rows of luma and chroma,
then converts colours and cuts them off at what RGB can show, and adds the columns up: the C's order, so that pixels differ from
the C's by how sums are rounded. What is read twice lies in the GPU's caches; weights are made where they are used.
"""

import threading

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipelines.decoding.staging import ENTRY, UNIT

_FIELDS = len(ENTRY.names or ())
_ROWS, _COLUMNS = 16, 32  # of a tile
_launching = threading.Lock()  # the interpreter runs one kernel at a time; on a GPU, a launch takes microseconds


@triton.jit
def _kernel(distance, bicubic):
    """The filter at a distance in output pixels, or source pixels when enlarging (fast_filter.h, `kernel`)."""
    d = tl.abs(distance)
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((2.5 - 0.5 * d) * d - 4.0) * d + 2.0
    cubic = tl.where(d < 1.0, near, tl.where(d < 2.0, far, 0.0))
    return tl.where(bicubic != 0, cubic, tl.where(d < 1.0, 1.0 - d, 0.0))


@triton.jit
def _weight(place, low, high, centre, wide, total, bicubic):
    """Weights of pixels, whose `place` is counted from the box's first, for output pixels that see low to before high."""
    value = _kernel(tl.div_rn(place.to(tl.float32) + 0.5 - centre, wide), bicubic)
    return tl.where((place >= low) & (place < high), tl.div_rn(value, total), 0.0)


@triton.jit
def _span(output, length, whole, least, end, bicubic):
    """What output pixels see of a box of `length` pixels that is resized to `whole`, of which those from `least` to before `end`
    are there: the first, the one behind the last, the centre, the reduction, the sum of weights, and how many at most."""
    scale = tl.div_rn(length.to(tl.float32), whole.to(tl.float32))
    wide = tl.maximum(scale, 1.0)
    support = tl.where(bicubic != 0, 2.0, 1.0) * wide
    centre = (output.to(tl.float32) + 0.5) * scale
    low = tl.maximum((centre - support + 0.5).to(tl.int32), least)
    high = tl.minimum((centre + support + 0.5).to(tl.int32), end)
    taps = tl.max(high - low, 0)
    total = tl.zeros_like(centre)
    for k in tl.range(0, taps):
        place = low + k
        value = _kernel(tl.div_rn(place.to(tl.float32) + 0.5 - centre, wide), bicubic)
        total += tl.where(place < high, value, 0.0)
    return low, high, centre, wide, total, taps


@triton.jit
def _luma(
    pixels, begin, columns, at_x, seen, low, high, centre, wide, total, taps, bicubic,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """What the filter of rows makes of the luma at `at_x`, one a column of the tile, where it is `seen`."""
    luma = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tap in tl.range(0, taps):
        y = low + tap
        weight = _weight(y, low, high, centre, wide, total, bicubic)
        at = (begin + y)[:, None] * columns + at_x[None, :]
        pixel = tl.load(pixels + at, mask=(y < high)[:, None] & seen, other=0)
        luma += weight[:, None] * pixel.to(tl.float32)
    return luma


@triton.jit
def _chroma_weight(chroma_row, chroma_rows, begin, halved, low, high, centre, wide, total, bicubic):
    """What a row of chroma counts in the filter of rows once it is upsampled: a `halved` one is seen in four of the picture's."""
    y = tl.where(halved, 2 * chroma_row, chroma_row) - begin
    weight = _weight(y, low, high, centre, wide, total, bicubic)
    if halved:
        before = _weight(y - 1, low, high, centre, wide, total, bicubic)
        below = _weight(y + 1, low, high, centre, wide, total, bicubic)
        after = _weight(y + 2, low, high, centre, wide, total, bicubic)
        at_edges = tl.where(chroma_row == 0, weight, 0.0) + tl.where(chroma_row == chroma_rows - 1, below, 0.0)
        weight = 0.75 * (weight + below) + 0.25 * (before + after + at_edges)
    return weight


@triton.jit
def _shown(colour):
    """What RGB can show of a colour."""
    return tl.minimum(tl.maximum(colour, 0.0), 255.0)


@triton.jit(do_not_specialize=["side"])
def resize_kernel(
    staged, table, out, side, FIELDS: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """A tile of a square of `side` x `side` pixels. Places along y are counted from the first row that is there."""
    tiles_across = tl.cdiv(side, COLUMNS)
    tiles = tl.cdiv(side, ROWS) * tiles_across
    image, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row = tile // tiles_across * ROWS + tl.arange(0, ROWS)
    column = tile % tiles_across * COLUMNS + tl.arange(0, COLUMNS)
    entry = table + image * FIELDS
    place = tl.load(entry)
    if place >= 0:
        columns, across, down = tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 3)
        first, end = tl.load(entry + 4), tl.load(entry + 5)
        left, top = tl.load(entry + 6), tl.load(entry + 7)
        bicubic, flip = tl.load(entry + 14), tl.load(entry + 15)
        pixels = staged + place.to(tl.int64) * UNIT
        made_row, made = tl.minimum(row, side - 1), tl.minimum(column, side - 1)
        made = tl.where(flip != 0, side - 1 - made, made)
        width, height = tl.load(entry + 8), tl.load(entry + 9)
        low, high, centre, wide, total, taps = _span(
            tl.load(entry + 12) + made, width, tl.load(entry + 10), 0, width, bicubic
        )
        begin, behind = top - first, tl.minimum(height, end - top)
        low_y, high_y, centre_y, wide_y, total_y, taps_y = _span(
            tl.load(entry + 13) + made_row, height, tl.load(entry + 11), tl.maximum(-begin, 0), behind, bicubic
        )

        # Chroma: pixels across, bytes before each plane, and the first row and how many of them the filter of a row sees.
        halved_across, halved_down = across == 2, down == 2
        chroma_columns = tl.cdiv(columns, tl.maximum(across, 1))
        chroma_rows = tl.cdiv(end, tl.maximum(down, 1)) - first // tl.maximum(down, 1)
        blue_from = (end - first) * columns
        red_from = blue_from + chroma_rows * chroma_columns
        low_chroma = low_y + begin
        low_chroma = tl.where(halved_down, tl.where(low_chroma > 0, (low_chroma - 1) // 2, 0), low_chroma)
        taps_chroma = tl.where(across > 0, tl.where(halved_down, taps_y // 2 + 2, taps_y), 0)
        beside_share = tl.where(halved_across, 0.25, 0.0)

        red = tl.zeros((ROWS, COLUMNS), tl.float32)
        green = tl.zeros((ROWS, COLUMNS), tl.float32)
        blue = tl.zeros((ROWS, COLUMNS), tl.float32)
        for tap in tl.range(0, taps):
            x = low + tap
            seen = (x < high)[None, :]
            luma = _luma(
                pixels, begin, columns, left + x, seen, low_y, high_y, centre_y, wide_y, total_y, taps_y, bicubic,
                ROWS, COLUMNS,
            )  # fmt: skip

            # Smooth upsampling: three quarters of a pixel come from where it lies, one from its neighbour on that side.
            at_x = (left + x) // tl.maximum(across, 1)
            beside = tl.where((left + x) % 2 == 1, at_x + 1, at_x - 1)
            beside = tl.where(halved_across & (beside >= 0) & (beside < chroma_columns), beside, at_x)
            cb, cb_beside = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
            cr, cr_beside = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
            for tap_y in tl.range(0, taps_chroma):
                chroma_row = low_chroma + tap_y
                by = _chroma_weight(
                    chroma_row, chroma_rows, begin, halved_down, low_y, high_y, centre_y, wide_y, total_y, bicubic
                )[:, None]
                there = (chroma_row < chroma_rows)[:, None] & seen
                at = chroma_row[:, None] * chroma_columns + at_x[None, :]
                at_beside = chroma_row[:, None] * chroma_columns + beside[None, :]
                cb += by * tl.load(pixels + blue_from + at, mask=there, other=0).to(tl.float32)
                cb_beside += by * tl.load(pixels + blue_from + at_beside, mask=there, other=0).to(tl.float32)
                cr += by * tl.load(pixels + red_from + at, mask=there, other=0).to(tl.float32)
                cr_beside += by * tl.load(pixels + red_from + at_beside, mask=there, other=0).to(tl.float32)
            cb = (1.0 - beside_share) * cb + beside_share * cb_beside - 128.0
            cr = (1.0 - beside_share) * cr + beside_share * cr_beside - 128.0
            cb, cr = tl.where(across > 0, cb, 0.0), tl.where(across > 0, cr, 0.0)

            # JFIF 1.02: ITU-R BT.601 over the full range.
            by_column = _weight(x, low, high, centre, wide, total, bicubic)[None, :]
            red += by_column * _shown(luma + 1.402 * cr)
            green += by_column * _shown(luma - 0.344136 * cb - 0.714136 * cr)
            blue += by_column * _shown(luma + 1.772 * cb)

        to = out + 3 * ((image.to(tl.int64) * side + row[:, None]) * side + column[None, :])
        inside = (row < side)[:, None] & (column < side)[None, :]
        tl.store(to, _shown(red + 0.5).to(tl.uint8), mask=inside)
        tl.store(to + 1, _shown(green + 0.5).to(tl.uint8), mask=inside)
        tl.store(to + 2, _shown(blue + 0.5).to(tl.uint8), mask=inside)


def resize(staged: Tensor, out: Tensor) -> None:
    """Make the squares of n samples of a `Staging`'s buffer, `staged`, uint8 (bytes,) on the device that `out` is on: uint8
    (n, 3, side, side), in channels_last memory. Samples that are not staged keep what `out` holds. With TRITON_INTERPRET=1 in the
    environment when this is imported, the device may be a CPU."""
    count, side = len(out), out.shape[-1]
    table = staged[: count * ENTRY.itemsize].view(torch.int32)
    grid = (count * triton.cdiv(side, _ROWS) * triton.cdiv(side, _COLUMNS),)
    with _launching, torch.cuda.device_of(out):  # Triton launches on the current GPU, whichever holds the tensors
        resize_kernel[grid](staged, table, out, side, FIELDS=_FIELDS, UNIT=UNIT, ROWS=_ROWS, COLUMNS=_COLUMNS)
