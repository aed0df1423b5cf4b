"""The runs under the folders that somebody watches, each summed up in a line without reading more than is new."""

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

ALIVE_SECONDS = 300.0  # a run whose files rest for longer is taken for interrupted
_FILES = ("metrics.jsonl", "config.yaml", "evaluation.json")
_DEPTH = 3  # folders of folders of runs


def run_folders(roots: Iterable[Path], depth: int = _DEPTH) -> Iterator[Path]:
    """The run directories among `roots` and below them, by name. A folder that may not be read holds none."""
    for root in roots:
        if any((root / name).is_file() for name in _FILES[:2]):
            yield root
        elif depth:
            try:
                inside = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
            except OSError:
                continue
            yield from run_folders(inside, depth - 1)


def stamp_of(folder: Path) -> str:
    """Changes whenever one of a run's files does."""
    parts = []
    for name in _FILES:
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        parts.append(f"{status.st_mtime_ns}.{status.st_size}.{status.st_ino}")
    return "-".join(parts)


# What a row says of its run's state, by its kind or event; others, which may follow the end, say nothing of it.
_STATES = {"train": "training", "resumed": "training", "preempted": "interrupted", "end": "finished"}


@dataclass
class Summary:
    """A run in a line."""

    name: str
    network: str = ""
    data: str = ""
    state: str = "no rows yet"
    epoch: float = 0.0
    epochs: Any = "?"
    step: int = 0
    best: float | None = None  # of what the best weights are chosen by [percent]
    measure: str = "top-1"
    loss: float | None = None
    images_per_second: float | None = None
    seconds: float = 0.0
    changed: float = 0.0  # when a row was last written [seconds since 1970]


@dataclass
class _Reading:
    """How far a run's rows were read, and what they said."""

    inode: int = 0
    position: int = 0
    summary: Summary = field(default_factory=lambda: Summary(""))


class RunList:
    """The runs below `roots`, by the names that pages and addresses use."""

    def __init__(self, roots: Sequence[Path]):
        self._roots = [root.absolute() for root in roots]
        self._readings: dict[Path, _Reading] = {}
        self._lock = threading.Lock()  # pages are asked for in threads

    def by_name(self) -> dict[str, Path]:
        """The run directories as they are now. A name is the path below the folder watched; equal ones get a number."""
        names: dict[str, Path] = {}
        for root in self._roots:
            for folder in run_folders([root]):
                name = folder.name if folder == root else folder.relative_to(root).as_posix()
                unique, number = name, 1
                while unique in names:
                    number += 1
                    unique = f"{name} ({number})"
                names[unique] = folder
        return names

    def summaries(self) -> list[Summary]:
        """All runs, the one that changed last first."""
        with self._lock:
            found = [replace(self._summary(name, folder)) for name, folder in self.by_name().items()]
        return sorted(found, key=lambda summary: -summary.changed)

    def _summary(self, name: str, folder: Path) -> Summary:
        """Reads what was appended to a run's rows since the last call; all of it when the file is another one."""
        file = folder / "metrics.jsonl"
        try:
            status = file.stat()
        except OSError:
            return _described(Summary(name), folder)
        reading = self._readings.get(folder)
        if reading is None or reading.inode != status.st_ino or status.st_size < reading.position:
            reading = self._readings[folder] = _Reading(status.st_ino, 0, _described(Summary(name), folder))
        if status.st_size > reading.position:
            with file.open("rb") as rows:
                rows.seek(reading.position)
                new = rows.read(status.st_size - reading.position)
            whole = new.rfind(b"\n") + 1  # the last row may be half written
            reading.position += whole
            _take_in(reading.summary, new[:whole])
        summary = reading.summary
        summary.name, summary.changed = name, status.st_mtime
        if summary.state in ("training", "resting"):
            summary.state = "training" if time.time() - status.st_mtime < ALIVE_SECONDS else "resting"
        return summary


def _described(summary: Summary, folder: Path) -> Summary:
    try:
        config = yaml.load(
            (folder / "config.yaml").read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
        summary.network, summary.data = config["network"]["name"], config["data"]["path"] or "sample"
        summary.epochs = config["schedule"]["epochs"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        pass  # of another version, or being written: the columns stay empty
    return summary


def _take_in(summary: Summary, text: bytes) -> None:
    """Reads the rows of evaluation and events, of training the last: the others say nothing that a line shows."""
    lines = text.splitlines()
    last_train = next((line for line in reversed(lines) if b'"kind": "train"' in line), b"")
    for line in [line for line in lines if b'"kind": "train"' not in line or line is last_train]:
        try:
            row = json.loads(line)
            kind, step = row["kind"], row["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if step >= summary.step:
            summary.step, summary.epoch, summary.seconds = step, row.get("epoch", 0.0), row.get("time", 0.0)
        if kind == "train":
            summary.loss, summary.images_per_second = row.get("loss"), row.get("images_per_second")
        elif kind == "eval" and row.get("top1") is not None:
            summary.measure = "mAP" if "map" in row else "top-1"
            summary.best = max(row.get("map", row["top1"]), summary.best or 0.0)
        summary.state = _STATES.get(row.get("event", kind), summary.state)
