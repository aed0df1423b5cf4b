"""The rows of metrics.jsonl as tables for spreadsheets: train.csv and eval.csv in the run directory."""

import csv
import io
from pathlib import Path
from typing import Any

from engine.monitoring.hooks import Hook
from engine.monitoring.trackers.curves import KINDS
from engine.runs.checkpoint_file import naming, write_whole


class CsvFiles(Hook):
    """One table for each kind of row, with a column for every key, on the first rank."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._columns: dict[str, list[str]] = {}

    def on_row(self, run: Any, row: dict[str, Any]) -> None:
        kind = row["kind"]
        if kind not in KINDS:
            return
        path = self._folder / f"{kind}.csv"
        columns = self._columns.get(kind, [])
        if columns and row.keys() <= {"kind", *columns}:
            with naming(path), path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n").writerow(row)
        else:  # the first row of this start, which may take steps again; or one with a key that no row had
            rows = [other for other in run.directory.metrics.rows() if other["kind"] == kind]
            self._columns[kind] = list(dict.fromkeys(key for other in rows for key in other if key != "kind"))
            text = io.StringIO(newline="")
            table = csv.DictWriter(text, self._columns[kind], extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
            write_whole(path, text.getvalue())
