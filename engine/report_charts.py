"""Charts as SVG that follows the page: colours are the page's CSS variables, text is text, nothing is loaded."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from engine.report_data import Group, thinned

_WIDTH, _HEIGHT = 460.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 36.0


class Series(NamedTuple):
    """A curve: its name, the number of its colour (1 to 5), its points, and whether they are single, marked values."""

    name: str
    colour: int
    points: Sequence[tuple[float, float]]
    dots: bool = False


class Axis(NamedTuple):
    """The range of an axis and where its ticks stand."""

    low: float
    high: float
    ticks: list[float]

    def place(self, value: float, start: float, end: float) -> float:
        """Where `value` lies between `start` and `end`."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)


def axis(low: float, high: float, parts: int = 4) -> Axis:
    """A range that holds low..high and begins and ends at round numbers, cut into about `parts` parts."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / parts
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, [step * k for k in range(first, last + 1)])


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    unit: str = "",
    *,
    zero: bool = False,
    top: float | None = None,
    marks: Sequence[float] = (),
) -> Markup | None:
    """A figure with the curves, or None where none has a point.

    unit: what stands behind values. zero: the axis begins at 0. top: a limit that values cannot exceed. marks: places on
    the horizontal axis where the run was resumed.
    """
    curves = [(each, thinned(each.points)) for each in series if each.points]
    if not curves:
        return None
    across, up = _axes(curves, zero, top)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        for tick in up.ticks
        for y in [up.place(tick, bottom, _TOP)]
    ]
    parts += [
        f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{number(tick)}</text>'
        for tick in across.ticks
        if tick <= across.high
        for x in [across.place(tick, _LEFT, right)]
    ]
    parts += [
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"><title>resumed</title></line>'
        for mark in marks
        for x in [across.place(mark, _LEFT, right)]
    ]
    parts += [_curve(each, groups, across, up) for each, groups in curves]
    parts.append(f'<text class="tick" x="{right}" y="{_HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    scale = f'data-x="{_LEFT} {right} {across.low} {across.high}" data-y="{bottom} {_TOP} {up.low} {up.high}"'
    svg = (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(title)}" {scale} '
        f'data-unit="{escape(unit)}" data-across="{escape(x_label)}">{"".join(parts)}</svg>'
    )
    legend = "".join(
        f'<span class="key c{each.colour}"><i></i>{escape(each.name)} '
        f"<b>{number(each.points[-1][1])}{escape(unit)}</b></span>"
        for each, _ in curves
    )
    return Markup(
        f'<figure class="chart"><figcaption><h3>{escape(title)}</h3><div class="legend">{legend}</div></figcaption>'
        f'{svg}<output aria-live="off"></output></figure>'
    )


def _axes(curves: Sequence[tuple[Series, list[Group]]], zero: bool, top: float | None) -> tuple[Axis, Axis]:
    xs = [group.x for _, groups in curves for group in groups]
    ys = sorted(group.y for _, groups in curves for group in groups)
    high = ys[-1]
    # A first loss or a gradient far above all others must not flatten the curve: it leaves the chart at the top.
    usual = ys[int(0.97 * (len(ys) - 1))]
    if high > 2 * usual > 0:
        high = usual * 1.2
    across = axis(min(0.0, *xs) if len(xs) > 1 else min(0.0, xs[0]), max(xs), 5)
    up = axis(0.0 if zero else ys[0], high)
    if top is not None and up.high > top:
        up = axis(up.low, top)
    # The horizontal axis ends with the data rather than at a round number.
    return across._replace(high=max(*xs, across.low + 1e-9) if len(xs) > 1 else across.high), up


def _curve(series: Series, groups: Sequence[Group], across: Axis, up: Axis) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> str:
        inside = min(max(up.place(y, bottom, _TOP), _TOP), bottom)
        return f"{across.place(x, _LEFT, right):.1f},{inside:.1f}"

    parts = []
    if any(group.high > group.low for group in groups):
        edge = [place(group.x, group.high) for group in groups] + [place(g.x, g.low) for g in reversed(groups)]
        parts.append(f'<polygon class="band" points="{" ".join(edge)}"/>')
    line = [place(group.x, group.y) for group in groups]
    parts.append(f'<polyline data-name="{escape(series.name)}" points="{" ".join(line)}"/>')
    if (series.dots and len(line) <= 60) or len(line) == 1:
        parts += [f'<circle cx="{x}" cy="{y}" r="3"/>' for x, y in (point.split(",") for point in line)]
    return f'<g class="c{series.colour}">{"".join(parts)}</g>'


def number(value: float) -> str:
    """A number in as many digits as a reader needs: 1,234  123  12.3  1.23  0.0123."""
    size = abs(value)
    if size >= 1000 or value == round(value):
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def heat_map(findings: dict[str, Any], most: int = 200) -> str:
    """The confusion matrix of many classes as a PNG in base64: a row a true class, a column a guess, each the more opaque
    the larger its share of the row. More than `most` classes are summed up in blocks."""
    classes = len(findings["classes"])
    block = -(-classes // most)
    size = -(-classes // block)
    counts = np.zeros((size, size))
    for true, guess, count in findings["matrix"]:
        counts[true // block, guess // block] += count
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pixels = np.empty((size, size, 4), np.uint8)
    pixels[..., :3] = (42, 120, 214)
    # The square root lifts rare confusions, which are what one looks for, above the paper.
    pixels[..., 3] = np.rint(255 * np.sqrt(shares))
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
