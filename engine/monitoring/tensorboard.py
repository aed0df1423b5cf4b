"""A run's curves in TensorBoard, as a hook."""

from pathlib import Path
from typing import Any

from engine.monitoring.curves import KINDS, Curves
from engine.monitoring.hooks import Hook


class TensorBoard(Hook):
    """Writes every number of the rows of training and evaluation, in `folder`, on the first rank."""

    def __init__(self, folder: Path):
        self._curves = Curves(folder)

    def on_row(self, run: Any, row: dict[str, Any]) -> None:
        if row["kind"] not in KINDS:
            return
        if self._curves.opened:
            self._curves.add(row)
        else:  # with all that metrics.jsonl kept of earlier starts
            self._curves.begin(run.directory.metrics.rows())

    def close(self) -> None:
        self._curves.close()
