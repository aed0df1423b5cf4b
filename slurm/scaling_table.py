"""The table and the picture of slurm/throughput.sbatch, from what benchmarks/scaling.py measured on each size.

python slurm/scaling_table.py --batch 128 --network inception_v3 --picture scaling.png 1=one.json 2=two.json
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # compute nodes have no display
import matplotlib.pyplot as plt


def rates(measured: dict[str, Any], batch: int) -> list[float]:
    """Images a second of all ranks, one value for each window."""
    return measured["steps"][str(batch)]["rates"]


def table(measured: dict[int, dict[str, Any]], batch: int) -> tuple[list[str], dict[str, list[tuple[int, float]]]]:
    """Lines of a Markdown table, and for each kind of scaling the points (nodes, efficiency).

    `measured` maps nodes to what was measured on them; the smallest is what the efficiency of the others refers to.
    """
    lines = ["| scaling | nodes | ranks | batch of a rank | images/s (median, range of windows) | efficiency |"]
    lines.append("|---|---|---|---|---|---|")
    points: dict[str, list[tuple[int, float]]] = {"weak": [], "strong": []}
    first = min(measured)
    base = statistics.median(rates(measured[first], batch)) / first
    for kind, found in points.items():
        for nodes, values in sorted(measured.items()):
            own = batch if kind == "weak" else max(1, batch * first // nodes)
            windows = rates(values, own)
            median = statistics.median(windows)
            found.append((nodes, median / nodes / base))
            spread = f"{min(windows):,.0f} to {max(windows):,.0f}"
            lines.append(
                f"| {kind} | {nodes} | {values['ranks']} | {own} | {median:,.0f} ({spread}) | {median / nodes / base:.0%} |"
            )
    return lines, points


def draw(points: dict[str, list[tuple[int, float]]], title: str, path: Path) -> None:
    """Efficiency over nodes, a line for each kind of scaling."""
    figure, axis = plt.subplots(figsize=(6, 4))
    for kind, line in points.items():
        axis.plot(*zip(*line), marker="o", label=f"{kind} scaling")
    axis.axhline(1.0, color="#b0b7bd", linewidth=1)
    nodes = [number for number, _ in points["weak"]]
    axis.set_xscale("log", base=2)
    axis.set_xticks(nodes, [str(number) for number in nodes])
    axis.set(xlabel="nodes", ylabel="images/s a node, share of one node's", title=title, ylim=(0, None))
    axis.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Table and picture of a scaling measurement.")
    parser.add_argument("--batch", type=int, required=True, help="images of a rank in weak scaling")
    parser.add_argument("--network", required=True)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("measured", nargs="+", metavar="NODES=FILE")
    options = parser.parse_args(arguments)
    pairs = (entry.partition("=")[::2] for entry in options.measured)
    measured = {int(nodes): json.loads(Path(file).read_text()) for nodes, file in pairs}
    lines, points = table(measured, options.batch)
    text = "\n".join(lines)
    print(text)
    options.picture.with_suffix(".md").write_text(f"# Scaling of {options.network}\n\n{text}\n")
    draw(points, options.network, options.picture)
    print(f"picture: {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
