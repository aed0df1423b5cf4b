"""`metrics.jsonl`: the rows of a run."""

import json
from pathlib import Path
from typing import Any


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
