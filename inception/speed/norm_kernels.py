"""Triton kernels of batch normalisation and ReLU together, for up to six activations in channels-last memory at once.

An activation is seen as a matrix of rows (one a pixel of an image) by channels; neighbouring rows may lie further apart
than they are wide, as those of a slice of a wider tensor do. Activations of one launch are its *parts*: as many rows, each
with its own channels. Arguments of parts that are not there are not looked at. bf16, fp16 or fp32 in and out; every sum in fp32.

Forward reads an activation once for the statistics, and once more to normalise while it writes the result. Backward reads
activation and gradient once for the two sums of a channel, and once more to write the gradient. Whether ReLU let a
number through is computed again from the activation, so that the result need not be read and no mask is kept: eight passes
over the activation, where a normalisation and a ReLU of their own make thirteen. The formulas are those of arXiv
1502.03167, Algorithm 1 and section 3.

`moments` (4, channels) fp32 says how a part is normalised: rows of mean, 1 / standard deviation, that times the weight,
and bias.
"""

import triton
import triton.language as tl

PARTS = 6


@triton.jit
def _pick(part, a0, a1, a2, a3, a4, a5, COUNT: tl.constexpr):
    """The value that belongs to part `part` of COUNT, of any type."""
    a = a0
    if COUNT > 1:
        a = tl.where(part == 1, a1, a)
    if COUNT > 2:
        a = tl.where(part == 2, a2, a)
    if COUNT > 3:
        a = tl.where(part == 3, a3, a)
    if COUNT > 4:
        a = tl.where(part == 4, a4, a)
    if COUNT > 5:
        a = tl.where(part == 5, a5, a)
    return a


@triton.jit
def _locate(tile, c0, c1, c2, c3, c4, c5, COUNT: tl.constexpr, CHANNELS: tl.constexpr):
    """The part of column tile `tile`, the tile's channels in it, which of them it has, and the channels of all before."""
    e0 = tl.cdiv(c0, CHANNELS)
    e1 = e0 + tl.cdiv(c1, CHANNELS)
    e2 = e1 + tl.cdiv(c2, CHANNELS)
    e3 = e2 + tl.cdiv(c3, CHANNELS)
    e4 = e3 + tl.cdiv(c4, CHANNELS)
    part = (tile >= e0).to(tl.int32) + (tile >= e1) + (tile >= e2) + (tile >= e3) + (tile >= e4)
    first = (tile - _pick(part, 0, e0, e1, e2, e3, e4, COUNT)) * CHANNELS
    before = _pick(part, 0, c0, c0 + c1, c0 + c1 + c2, c0 + c1 + c2 + c3, c0 + c1 + c2 + c3 + c4, COUNT)
    channel = first + tl.arange(0, CHANNELS)
    return part, channel, channel < _pick(part, c0, c1, c2, c3, c4, c5, COUNT), before


@triton.jit
def _rows_of(block, blocks, rows, ROWS: tl.constexpr):
    """How many rows program `block` of `blocks` sees, which takes every `blocks`-th tile of ROWS."""
    rounds = rows // (blocks * ROWS)
    left = rows - rounds * blocks * ROWS - block * ROWS
    return rounds * ROWS + tl.minimum(tl.maximum(left, 0), ROWS)


@triton.jit
def _store(part, y0, y1, y2, y3, y4, y5, place, values, inside, COUNT: tl.constexpr):
    """Writes `values` into part `part` of COUNT. A store each, so that compilers see which tensors are written; the
    outer conditions are settled when it is compiled."""
    if part == 0:
        tl.store(y0 + place, values, mask=inside)
    if COUNT > 1:  # noqa: SIM102
        if part == 1:
            tl.store(y1 + place, values, mask=inside)
    if COUNT > 2:  # noqa: SIM102
        if part == 2:
            tl.store(y2 + place, values, mask=inside)
    if COUNT > 3:  # noqa: SIM102
        if part == 3:
            tl.store(y3 + place, values, mask=inside)
    if COUNT > 4:  # noqa: SIM102
        if part == 4:
            tl.store(y4 + place, values, mask=inside)
    if COUNT > 5:  # noqa: SIM102
        if part == 5:
            tl.store(y5 + place, values, mask=inside)


@triton.jit
def statistics_kernel(
    x0, x1, x2, x3, x4, x5, c0, c1, c2, c3, c4, c5, s0, s1, s2, s3, s4, s5, partial, rows, channels,
    COUNT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A program's rows: their mean, and their squares' sum about it, into `partial` (programs, 2, channels)."""
    block, blocks = tl.program_id(0), tl.num_programs(0)
    part, channel, valid, before = _locate(tl.program_id(1), c0, c1, c2, c3, c4, c5, COUNT, CHANNELS)
    x = _pick(part, x0, x1, x2, x3, x4, x5, COUNT)
    stride = _pick(part, s0, s1, s2, s3, s4, s5, COUNT)
    # Sums are of differences from the first row: of the numbers themselves, a large mean would leave no digits.
    origin = tl.load(x + (block * ROWS).to(tl.int64) * stride + channel, mask=valid, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in tl.range(block * ROWS, rows, blocks * ROWS, num_stages=STAGES):
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
    tl.store(partial + (2 * block) * channels + before + channel, origin + distance, mask=valid)
    tl.store(partial + (2 * block + 1) * channels + before + channel, spread, mask=valid)


@triton.jit
def moments_kernel(
    partial, moments, w0, w1, w2, w3, w4, w5, b0, b1, b2, b3, b4, b5, m0, m1, m2, m3, m4, m5, v0, v1, v2, v3, v4, v5,
    n0, n1, n2, n3, n4, n5, c0, c1, c2, c3, c4, c5, blocks, rows, channels, MOMENTUM: tl.constexpr, EPS: tl.constexpr,
    COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """All programs' means and squares as `moments`; moves the running means m and variances v, and counts the batch in n."""
    part, channel, valid, before = _locate(tl.program_id(0), c0, c1, c2, c3, c4, c5, COUNT, CHANNELS)
    column = before + channel
    block = tl.arange(0, BLOCKS)
    inside = (block < blocks)[:, None] & valid[None, :]
    place = (2 * block)[:, None] * channels + column[None, :]
    means = tl.load(partial + place, mask=inside, other=0.0)
    spreads = tl.load(partial + place + channels, mask=inside, other=0.0)
    counts = tl.where(inside, _rows_of(block, blocks, rows, ROWS).to(tl.float32)[:, None], 0.0)
    count = rows * 1.0  # a number that the compiler may know already
    origin = tl.load(partial + column, mask=valid, other=0.0)
    center = origin + tl.sum(counts * (means - origin[None, :]), 0) / count
    away = means - center[None, :]
    squares = tl.sum(spreads + counts * away * away, 0)
    unit = 1.0 / tl.sqrt(squares / count + EPS)
    weight = tl.load(_pick(part, w0, w1, w2, w3, w4, w5, COUNT) + channel, mask=valid, other=0.0)
    bias = tl.load(_pick(part, b0, b1, b2, b3, b4, b5, COUNT) + channel, mask=valid, other=0.0)
    tl.store(moments + column, center, mask=valid)
    tl.store(moments + channels + column, unit, mask=valid)
    tl.store(moments + 2 * channels + column, unit * weight, mask=valid)
    tl.store(moments + 3 * channels + column, bias, mask=valid)
    before_mean = tl.load(_pick(part, m0, m1, m2, m3, m4, m5, COUNT) + channel, mask=valid, other=0.0)
    moved = before_mean + MOMENTUM * (center - before_mean)
    _store(part, m0, m1, m2, m3, m4, m5, channel, moved, valid, COUNT)
    before_variance = tl.load(_pick(part, v0, v1, v2, v3, v4, v5, COUNT) + channel, mask=valid, other=0.0)
    moved = before_variance + MOMENTUM * (squares / (count - 1) - before_variance)
    _store(part, v0, v1, v2, v3, v4, v5, channel, moved, valid, COUNT)
    first = channel == 0  # one program of each part, one channel of it
    batches = tl.load(_pick(part, n0, n1, n2, n3, n4, n5, COUNT) + channel, mask=first, other=0)
    _store(part, n0, n1, n2, n3, n4, n5, channel, batches + 1, first, COUNT)


@triton.jit
def normalise_kernel(
    x0, x1, x2, x3, x4, x5, c0, c1, c2, c3, c4, c5, s0, s1, s2, s3, s4, s5, y0, y1, y2, y3, y4, y5,
    p0, p1, p2, p3, p4, p5, moments, rows, channels, width, NORMED: tl.constexpr, JOINED: tl.constexpr,
    COUNT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y = relu((x - mean) * gain + bias) of the first NORMED parts and x itself of the others. JOINED: as columns of y0, which
    is `width` wide, from column p on; else each lies densely in its own y."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part, channel, valid, before = _locate(tl.program_id(1), c0, c1, c2, c3, c4, c5, COUNT, CHANNELS)
    x = _pick(part, x0, x1, x2, x3, x4, x5, COUNT)
    stride = _pick(part, s0, s1, s2, s3, s4, s5, COUNT)
    inside = (row < rows)[:, None] & valid[None, :]
    row = row.to(tl.int64)[:, None]
    values = tl.load(x + row * stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    known = channel < tl.where(part < NORMED, _pick(part, c0, c1, c2, c3, c4, c5, COUNT), 0)
    center = tl.load(moments + before + channel, mask=known, other=0.0)
    gain = tl.load(moments + 2 * channels + before + channel, mask=known, other=0.0)
    shift = tl.load(moments + 3 * channels + before + channel, mask=known, other=0.0)
    z = (values - center[None, :]) * gain[None, :] + shift[None, :]
    # In this order, what is not a number stays so, and the run's check of its losses finds it.
    z = tl.where(part < NORMED, tl.where(z <= 0.0, 0.0, z), values)
    if JOINED:
        column = _pick(part, p0, p1, p2, p3, p4, p5, COUNT) + channel
        tl.store(y0 + row * width + column[None, :], z, mask=inside)
    else:
        place = row * _pick(part, c0, c1, c2, c3, c4, c5, COUNT) + channel[None, :]
        _store(part, y0, y1, y2, y3, y4, y5, place, z, inside, COUNT)


@triton.jit
def sums_kernel(
    d0, d1, d2, d3, d4, d5, x0, x1, x2, x3, x4, x5, c0, c1, c2, c3, c4, c5, p0, p1, p2, p3, p4, p5,
    t0, t1, t2, t3, t4, t5, s0, s1, s2, s3, s4, s5, moments, partial, rows, channels,
    COUNT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A program's sums of the gradient, and of the gradient times the normalised x, into `partial` (programs, 2, channels);
    a part's gradient begins at column p of d. Rows of d are t apart, those of x are s apart."""
    block, blocks = tl.program_id(0), tl.num_programs(0)
    part, channel, valid, before = _locate(tl.program_id(1), c0, c1, c2, c3, c4, c5, COUNT, CHANNELS)
    dy = _pick(part, d0, d1, d2, d3, d4, d5, COUNT) + _pick(part, p0, p1, p2, p3, p4, p5, COUNT)
    x = _pick(part, x0, x1, x2, x3, x4, x5, COUNT)
    dy_stride = _pick(part, t0, t1, t2, t3, t4, t5, COUNT)
    x_stride = _pick(part, s0, s1, s2, s3, s4, s5, COUNT)
    center = tl.load(moments + before + channel, mask=valid, other=0.0)
    unit = tl.load(moments + channels + before + channel, mask=valid, other=0.0)
    gain = tl.load(moments + 2 * channels + before + channel, mask=valid, other=0.0)
    shift = tl.load(moments + 3 * channels + before + channel, mask=valid, other=0.0)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    products = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in tl.range(block * ROWS, rows, blocks * ROWS, num_stages=STAGES):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & valid[None, :]
        row = row.to(tl.int64)[:, None]
        centered = tl.load(x + row * x_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        centered -= center[None, :]
        gradient = tl.load(dy + row * dy_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        gradient = tl.where(centered * gain[None, :] + shift[None, :] <= 0.0, 0.0, gradient)
        total += gradient
        products += gradient * centered
    tl.store(partial + (2 * block) * channels + before + channel, tl.sum(total, 0), mask=valid)
    tl.store(partial + (2 * block + 1) * channels + before + channel, tl.sum(products, 0) * unit, mask=valid)


@triton.jit
def total_kernel(partial, sums, blocks, columns, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr):
    """sums (columns) of partial (blocks, columns)."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    block = tl.arange(0, BLOCKS)
    inside = (block < blocks)[:, None] & (column < columns)[None, :]
    values = tl.load(partial + block[:, None] * columns + column[None, :], mask=inside, other=0.0)
    tl.store(sums + column, tl.sum(values, 0), mask=column < columns)


@triton.jit
def gradient_kernel(
    d0, d1, d2, d3, d4, d5, x0, x1, x2, x3, x4, x5, c0, c1, c2, c3, c4, c5, p0, p1, p2, p3, p4, p5,
    t0, t1, t2, t3, t4, t5, s0, s1, s2, s3, s4, s5, y0, y1, y2, y3, y4, y5, moments, sums, rows, channels,
    COUNT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of x, each dense in its own y, from the sums (2, channels)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part, channel, valid, before = _locate(tl.program_id(1), c0, c1, c2, c3, c4, c5, COUNT, CHANNELS)
    dy = _pick(part, d0, d1, d2, d3, d4, d5, COUNT) + _pick(part, p0, p1, p2, p3, p4, p5, COUNT)
    x = _pick(part, x0, x1, x2, x3, x4, x5, COUNT)
    dy_stride = _pick(part, t0, t1, t2, t3, t4, t5, COUNT)
    x_stride = _pick(part, s0, s1, s2, s3, s4, s5, COUNT)
    inside = (row < rows)[:, None] & valid[None, :]
    row = row.to(tl.int64)[:, None]
    center = tl.load(moments + before + channel, mask=valid, other=0.0)
    unit = tl.load(moments + channels + before + channel, mask=valid, other=0.0)
    gain = tl.load(moments + 2 * channels + before + channel, mask=valid, other=0.0)
    shift = tl.load(moments + 3 * channels + before + channel, mask=valid, other=0.0)
    count = rows * 1.0  # a number that the compiler may know already
    average = tl.load(sums + before + channel, mask=valid, other=0.0) / count
    slope = tl.load(sums + channels + before + channel, mask=valid, other=0.0) / count
    centered = tl.load(x + row * x_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    centered -= center[None, :]
    gradient = tl.load(dy + row * dy_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    gradient = tl.where(centered * gain[None, :] + shift[None, :] <= 0.0, 0.0, gradient)
    gradient = gain[None, :] * (gradient - average[None, :] - centered * (unit * slope)[None, :])
    place = row * _pick(part, c0, c1, c2, c3, c4, c5, COUNT) + channel[None, :]
    _store(part, y0, y1, y2, y3, y4, y5, place, gradient, inside, COUNT)


KERNELS = (statistics_kernel, moments_kernel, normalise_kernel, sums_kernel, total_kernel, gradient_kernel)
INTERPRETED = not isinstance(total_kernel, triton.JITFunction)  # TRITON_INTERPRET=1: on any device, slowly
