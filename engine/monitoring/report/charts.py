"""Charts as SVG that follows the page: colours are the page's CSS variables, text is text, nothing is loaded."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from engine.monitoring.report.data import Point

_WIDTH, _HEIGHT = 460.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 36.0


class Series(NamedTuple):
    """A curve: its name, the number of its colour (1 to 5), its points, and whether each is marked with a dot."""

    name: str
    colour: int
    points: Sequence[Point]
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
    across: Literal["epoch", "time"],
    x_label: str,
    scale: float = 1.0,
    unit: str = "",
    *,
    zero: bool = False,
    top: float | None = None,
    spikes: bool = False,
    marks: Sequence[float] = (),
) -> Markup | None:
    """A figure with the curves against their epochs or their times over `scale`, or None where none has a point.

    unit: what stands behind values. zero: the axis begins at 0. top: a limit that values cannot exceed. spikes: single
    values far above all others leave the chart at the top rather than flatten the curve. marks: places on the horizontal
    axis where the run was resumed.
    """
    curves = [each for each in series if each.points]
    if not curves:
        return None
    xs = [[getattr(point, across) / scale for point in each.points] for each in curves]
    level, up = _level_axis([x for places in xs for x in places]), _upright_axis(curves, zero, top, spikes)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        for tick in up.ticks
        for y in [up.place(tick, bottom, _TOP)]
    ]
    parts += [
        f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{number(tick)}</text>'
        for tick in level.ticks
        if tick <= level.high
        for x in [level.place(tick, _LEFT, right)]
    ]
    parts += [
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"><title>resumed</title></line>'
        for mark in marks
        for x in [level.place(mark / scale, _LEFT, right)]
    ]
    parts += [_curve(each, places, level, up) for each, places in zip(curves, xs)]
    parts.append(f'<text class="tick" x="{right}" y="{_HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    axes = f'data-x="{_LEFT} {right} {level.low} {level.high}" data-y="{bottom} {_TOP} {up.low} {up.high}"'
    svg = (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(title)}" {axes} '
        f'data-unit="{escape(unit)}" data-across="{escape(x_label)}">{"".join(parts)}</svg>'
    )
    legend = "".join(
        f'<span class="key c{each.colour}"><i></i>{escape(each.name)} '
        f"<b>{number(each.points[-1].value)}{escape(unit)}</b></span>"
        for each in curves
    )
    return Markup(
        f'<figure class="chart"><figcaption><h3>{escape(title)}</h3><div class="legend">{legend}</div></figcaption>'
        f'{svg}<output aria-live="off"></output></figure>'
    )


def _level_axis(xs: Sequence[float]) -> Axis:
    """From 0 to where the data ends, rather than to a round number."""
    end = max(xs) or 1.0
    return axis(0.0, end, 5)._replace(high=end)


def _upright_axis(curves: Sequence[Series], zero: bool, top: float | None, spikes: bool) -> Axis:
    values = sorted(point.value for each in curves for point in each.points)
    high, usual = values[-1], values[int(0.97 * len(values)) - 1]
    if spikes and len(values) >= 20 and high > 2 * usual > 0:
        high = usual * 1.2
    up = axis(0.0 if zero else values[0], high)
    return up if top is None or up.high <= top else axis(up.low, top)


def _curve(series: Series, xs: Sequence[float], level: Axis, up: Axis) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def places(values: Sequence[float]) -> list[str]:
        ys = (min(max(up.place(value, bottom, _TOP), _TOP), bottom) for value in values)
        return [f"{level.place(x, _LEFT, right):.1f},{y:.1f}" for x, y in zip(xs, ys)]

    parts = []
    points = series.points
    if any(point.high > point.low for point in points):
        edge = places([point.high for point in points]) + places([point.low for point in points])[::-1]
        parts.append(f'<polygon class="band" points="{" ".join(edge)}"/>')
    line = places([point.value for point in points])
    parts.append(f'<polyline data-name="{escape(series.name)}" points="{" ".join(line)}"/>')
    if (series.dots and len(line) <= 60) or len(line) == 1:
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5"/>' for x, y in (place.split(",") for place in line)]
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
