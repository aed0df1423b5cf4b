"""What is measured along the way: the steps since the last row, and the rows of `metrics.jsonl`."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.distributed.strategy import Strategy


class RecentSteps:
    """Loss and share of right answers of the `count` steps since the last row, kept on the device so that no step waits."""

    def __init__(self, strategy: Strategy):
        self._strategy = strategy
        self.count = 0
        self._steps: list[Tensor] = []
        self._resumed = torch.zeros(0, 2, dtype=torch.float64, device=strategy.device)

    def add(self, values: Tensor) -> None:
        """Adds a step's (loss, share of right answers) on this rank, float32 (2,) on the device."""
        self._steps.append(values)
        self.count += 1

    def means(self) -> list[list[float]]:
        """(loss, share of right answers) of each step over all ranks. Every rank must call it; waits for the device."""
        values = self._resumed.clone()
        if self._steps:
            values = torch.cat([values, torch.stack(self._steps).double()])
        return (self._strategy.sum(values) / self._strategy.world_size).tolist()

    def clear(self) -> None:
        """Starts the next row."""
        self.count = 0
        self._steps.clear()
        self._resumed = self._resumed[:0]

    def load(self, means: list[list[float]]) -> None:
        """Takes over what `means` returned in an earlier run, on any number of ranks."""
        self.clear()
        self.count = len(means)
        # The sum over the ranks divides by their number again: the first one holds all of it.
        share = float(self._strategy.world_size) if self._strategy.is_main else 0.0
        self._resumed = torch.tensor(means, dtype=torch.float64, device=self._resumed.device).reshape(-1, 2) * share


def first_not_finite(means: list[list[float]]) -> int | None:
    """The position of the first step whose loss is NaN or infinite."""
    return next((position for position, (loss, _) in enumerate(means) if not math.isfinite(loss)), None)


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, in the order of the steps."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row; a reader sees whole lines only."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows, oldest first; a line cut off by a crash is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def rewind(self, step: int) -> None:
        """Forgets the rows after `step` and any end: a resumed run writes them again."""
        kept = [row for row in self.rows() if row["kind"] != "end" and row["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        temporary.replace(self.path)

    def end(self) -> dict[str, Any] | None:
        """The row that ended the run, or None while it is unfinished."""
        rows = self.rows()
        return rows[-1] if rows and rows[-1]["kind"] == "end" else None
