"""The pictures of the benchmarks, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.measuring.counting import Block
from benchmarks.measuring.limits import Limits
from benchmarks.reporting.results import Row

OURS, OTHERS, BOUND = "#1f6f8b", "#b0b7bd", "#d1495b"


def draw_roofline(
    path: Path, networks: Sequence[tuple[str, list[Block], list[tuple[str, Any, float | None]]]], limits: Limits,
    precision: str,
) -> None:  # fmt: skip
    """A row a network: left the roofline with the blocks as numbered points, right seconds of every block beside its bound."""
    figure, axes = plt.subplots(len(networks), 2, figsize=(13, 5 * len(networks)), squeeze=False)
    for (roof, bars), (name, blocks, rows) in zip(axes, networks):
        _draw_roof(roof, name, blocks, rows, limits, precision)
        _draw_bars(bars, rows)
    _save(figure, path)


def _draw_roof(
    axis: Any, name: str, blocks: list[Block], rows: list[tuple[str, Any, float | None]], limits: Limits, precision: str
) -> None:
    peak, rate = limits.operations[precision], limits.bandwidths[-1][1]
    intensity = np.logspace(0, 3, 200)
    axis.loglog(intensity, np.minimum(peak, intensity * rate) / 1e9, color=BOUND)
    by_name = {block.name: block for block in blocks}
    for number, (label, _, seconds) in enumerate(rows, start=1):
        block = by_name[label]
        if seconds and block.operations:
            x, y = block.operations / block.bytes(), block.operations / seconds / 1e9
            axis.plot(x, y, "o", color=OURS)
            axis.annotate(str(number), (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axis.set(xlabel="operations per byte", ylabel="GFLOP/s", title=f"{name}, {precision}: forward and backward")


def _draw_bars(axis: Any, rows: list[tuple[str, Any, float | None]]) -> None:
    places = np.arange(len(rows))
    axis.barh(places, [(seconds or 0) * 1000 for _, _, seconds in rows], color=OTHERS, label="measured")
    compute = [least.compute * 1000 for _, least, _ in rows]
    memory = [least.memory * 1000 for _, least, _ in rows]
    axis.barh(places, compute, height=0.4, color=OURS, label="bound: compute")
    axis.barh(places, memory, left=compute, height=0.4, color=BOUND, label="bound: memory")
    axis.set_yticks(places, [f"{number} {label}" for number, (label, _, _) in enumerate(rows, start=1)], fontsize=7)
    axis.invert_yaxis()
    axis.set(xlabel="ms a step", title="Where the time goes")
    axis.legend()


def draw_bars(path: Path, panels: Mapping[str, Sequence[Row]]) -> None:
    """Horizontal bars of rows with their intervals, a panel with a scale of its own for each title; failed rows are left
    out."""
    shown = {title: [row for row in rows if row.value is not None] for title, rows in panels.items()}
    shown = {title: group for title, group in shown.items() if group}
    if not shown:
        return
    heights = [max(1.2, 0.35 * len(group) + 0.8) for group in shown.values()]
    figure, axes = plt.subplots(
        len(shown), 1, figsize=(9, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, (title, group) in zip(axes[:, 0], shown.items()):
        places = np.arange(len(group))
        values = np.array([row.value for row in group])
        low = np.array([row.value if row.low is None else row.low for row in group])
        high = np.array([row.value if row.high is None else row.high for row in group])
        colours = [OURS if str(row.case["of"]).startswith("ours") else OTHERS for row in group]
        errors = np.maximum(0, [values - low, high - values])
        axis.barh(places, values, color=colours, xerr=errors, error_kw={"linewidth": 0.8})
        axis.set_yticks(places, [", ".join(str(v) for v in row.case.values() if v != "") for row in group], fontsize=7)
        axis.invert_yaxis()
        axis.set(xlabel=group[0].metric, title=title)
    _save(figure, path)


def draw_lines(
    path: Path, title: str, x_label: str, y_label: str, lines: Sequence[tuple[str, Sequence[float], Sequence[float], str]],
    log_x: bool = False,
) -> None:  # fmt: skip
    """Lines of (label, x, y, matplotlib style)."""
    figure, axis = plt.subplots(figsize=(8, 5))
    for label, x, y, style in lines:
        axis.plot(
            x, y, style if "o" in style else f"o{style}", markersize=3, label=label
        )  # a curve of one point shows too
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
