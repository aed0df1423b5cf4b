"""The pictures of the benchmarks, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.measuring.counting import Block
from benchmarks.measuring.limits import Limits
from benchmarks.reporting.results import Row, number

OURS, OTHERS, BOUND = "#1f6f8b", "#b0b7bd", "#d1495b"

# Of each block of a network: its name, its bound and the measured seconds a step.
Bars = list[tuple[str, Any, float | None]]
# Label, x, y, matplotlib style.
Line = tuple[str, Sequence[float], Sequence[float], str]


def draw_roofline(
    path: Path, networks: Sequence[tuple[str, list[Block], Bars]], limits: Limits, precision: str
) -> None:
    """A row a network: left the roofline with the blocks as numbered points, right seconds of every block beside its bound."""
    figure, axes = plt.subplots(len(networks), 2, figsize=(13, 5 * len(networks)), squeeze=False)
    intensity = np.logspace(0, 3, 200)
    peak = np.minimum(limits.operations[precision], intensity * limits.bandwidths[-1][1])
    for (roof, bars), (name, blocks, rows) in zip(axes, networks):
        roof.set(xlabel="operations per byte", ylabel="GFLOP/s", title=f"{name}, {precision}: forward and backward")
        roof.loglog(intensity, peak / 1e9, color=BOUND)
        by_name = {block.name: block for block in blocks}
        for place, (label, _, seconds) in enumerate(rows, start=1):
            block = by_name[label]
            if seconds and block.operations:
                point = block.operations / block.bytes, block.operations / seconds / 1e9
                roof.plot(*point, "o", color=OURS)
                roof.annotate(str(place), point, fontsize=7, xytext=(3, 3), textcoords="offset points")
        places = np.arange(len(rows))
        bars.barh(places, [(seconds or 0) * 1000 for _, _, seconds in rows], color=OTHERS, label="measured")
        compute, memory = ([getattr(least, by) * 1000 for _, least, _ in rows] for by in ("compute", "memory"))
        bars.barh(places, compute, height=0.4, color=OURS, label="bound: compute")
        bars.barh(places, memory, left=compute, height=0.4, color=BOUND, label="bound: memory")
        bars.set_yticks(places, [f"{place} {label}" for place, (label, _, _) in enumerate(rows, start=1)], fontsize=7)
        bars.invert_yaxis()
        bars.set(xlabel="ms a step", title="Where the time goes")
        bars.legend()
    _save(figure, path)


def draw_bars(path: Path, panels: Mapping[str, Mapping[str, Row]]) -> None:
    """Horizontal bars of labelled rows with their intervals and values, a panel with a scale of its own for each title, so
    that what is slow does not vanish beside what is fast. Failed rows are left out, and panels that have no others."""
    shown = {t: {label: row for label, row in rows.items() if row.value is not None} for t, rows in panels.items()}
    shown = {title: rows for title, rows in shown.items() if rows}
    if not shown:
        return
    heights = [0.35 * len(rows) + 0.9 for rows in shown.values()]
    figure, axes = plt.subplots(len(shown), 1, figsize=(9, sum(heights)), squeeze=False, height_ratios=heights)
    for axis, (title, rows) in zip(axes[:, 0], shown.items()):
        values = np.array([row.value for row in rows.values()])
        ends = np.array([[row.value if end is None else end for end in (row.low, row.high)] for row in rows.values()])
        errors = np.maximum(0, [values - ends[:, 0], ends[:, 1] - values])
        colours = [OURS if str(row.case["of"]).startswith("ours") else OTHERS for row in rows.values()]
        axis.barh(np.arange(len(rows)), values, color=colours, xerr=errors, error_kw={"linewidth": 0.8})
        for place, value in enumerate(values):
            axis.annotate(f" {number(value)}", (ends[place, 1], place), va="center", fontsize=7)
        axis.set_yticks(np.arange(len(rows)), rows, fontsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.1)
        axis.set(xlabel=next(iter(rows.values())).metric, title=title)
    _save(figure, path)


def draw_lines(path: Path, title: str, x_label: str, y_label: str, lines: Sequence[Line], log_x: bool = False) -> None:
    """One panel of lines."""
    figure, axis = plt.subplots(figsize=(8, 5))
    for label, x, y, style in lines:
        dotted = style if "o" in style else f"o{style}"  # a curve of one point shows too
        axis.plot(x, y, dotted, markersize=3, label=label)
    if log_x:
        axis.set_xscale("log", base=2)
    axis.set(xlabel=x_label, ylabel=y_label, title=title)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110, bbox_inches="tight")  # long labels whole
    plt.close(figure)
