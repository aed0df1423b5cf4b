"""`metrics.jsonl`: the rows of a run."""

import json
import math
from pathlib import Path
from typing import Any

from engine.runs.checkpoint_file import naming, write_whole


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, in the order of the steps."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row; a reader sees whole lines only."""
        with naming(self.path), self.path.open("a") as file:
            file.write(_lines([row]))

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows, oldest first; a line cut off by a crash or damaged otherwise is left out."""
        try:
            with naming(self.path):
                lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            try:
                row = json.loads(line, parse_constant=lambda name: None)  # of versions that wrote NaN
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and {"kind", "step"} <= row.keys():  # a damaged line may be JSON too
                rows.append(row)
        return rows

    def rewind(self, step: int) -> None:
        """Forgets the rows after `step` and any end: a resumed run writes them again."""
        self._keep([row for row in self.rows() if row["kind"] != "end" and row["step"] <= step])

    def rows_after(self, step: int) -> list[dict[str, Any]]:
        """The rows of steps beyond `step`."""
        return [row for row in self.rows() if row["step"] > step]

    def move_rows_after(self, step: int, file: Path) -> None:
        """Moves the rows of steps beyond `step` to a new `file`."""
        later = self.rows_after(step)
        if later:
            write_whole(file, _lines(later))
            self._keep([row for row in self.rows() if row["step"] <= step])

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        write_whole(self.path, _lines(rows))

    def best_top1(self) -> float | None:
        """The best accuracy of all evaluations [percent], None before the first."""
        return max(self.top1_by_step().values(), default=None)

    def top1_by_step(self) -> dict[int, float]:
        """Top-1 accuracy of every evaluation, or mean average precision where images have several labels [percent], by step."""
        evaluations = (row for row in self.rows() if row["kind"] == "eval" and row["top1"] is not None)
        return {row["step"]: row.get("map", row["top1"]) for row in evaluations}

    def end(self) -> dict[str, Any] | None:
        """The row that ended the run, or None while it is unfinished."""
        return next((row for row in reversed(self.rows()) if row["kind"] == "end"), None)


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(finite(row), allow_nan=False) + "\n" for row in rows)


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """`row` with null for numbers that JSON does not know: NaN and the infinities."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
