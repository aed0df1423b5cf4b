"""The rows of metrics.jsonl as curves for TensorBoard: one event file, which never shows a step twice."""

import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

KINDS = ("train", "eval")
POSITION = ("step", "epoch", "samples", "time")
_EVENT_FILES = "events.out.tfevents."  # by this beginning TensorBoard knows them


class Curves:
    """The event file in `folder`. Written through Python's own files: the name of a folder need not be UTF-8."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: RecordWriter | None = None

    @property
    def opened(self) -> bool:
        """Whether `begin` was called."""
        return self._writer is not None

    def begin(self, rows: Iterable[dict[str, Any]]) -> None:
        """Starts the file with all `rows` that a run has so far, in place of what earlier starts of the run left: they
        may have shown steps that a resumed run takes again."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{_EVENT_FILES}{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        temporary = self._folder / "curves.tmp"
        self._writer = RecordWriter(temporary.open("wb"))
        self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        shown = [row for row in rows if row["kind"] in KINDS]
        for row in shown:
            # As if the run had never been interrupted: rows know the time it took, not the time of day.
            self._add(row, time.time() - (shown[-1]["time"] - row["time"]))
        self._writer.flush()
        for old in self._folder.glob(f"{_EVENT_FILES}*"):
            old.unlink(missing_ok=True)
        temporary.replace(self._folder / name)

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row: all its numbers in one event."""
        assert self._writer is not None, "begin() comes first"
        self._add(row, time.time())
        self._writer.flush()

    def _add(self, row: dict[str, Any], wall_time: float) -> None:
        curves = [
            Summary.Value(tag=f"{row['kind']}/{name}", simple_value=value)
            for name, value in row.items()
            if name not in POSITION and isinstance(value, (int, float))
        ]
        event = Event(wall_time=wall_time, step=row["step"], summary=Summary(value=curves))
        self._writer.write(event.SerializeToString())  # type: ignore[union-attr]

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
