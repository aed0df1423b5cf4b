"""A run's curves in TensorBoard, as a hook."""

from pathlib import Path
from typing import Any

from engine.monitoring.hooks import Hook
from engine.monitoring.trackers.curves import KINDS, Curves
from engine.runs.checkpoint_file import naming


class TensorBoard(Hook):
    """Writes every number of the rows of training and evaluation, in `folder`, on the first rank."""

    def __init__(self, folder: Path):
        self._folder, self._curves = folder, Curves(folder)

    def on_row(self, run: Any, row: dict[str, Any]) -> None:
        if row["kind"] not in KINDS:
            return
        with naming(self._folder):
            if self._curves.opened:
                self._curves.add(row)
            else:  # with all that metrics.jsonl kept of earlier starts
                self._curves.begin(run.directory.metrics.rows())

    def close(self) -> None:
        with naming(self._folder):
            self._curves.close()
