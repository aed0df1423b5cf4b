"""Writes an index: what an older one knows of groups that did not change, and what is read of the others."""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.datasets.image_headers import Flag
from pipelines.datasets.index_places import Unwritable
from pipelines.datasets.indexing import Part, parts
from pipelines.datasets.source import Aside, Source
from pipelines.support.errors import DataError

VERSION = 4
_LARGEST_NAMES = 0xFFFFFFFF  # bytes
_ABANDONED = 24 * 3600.0  # seconds after which another machine's unfinished index counts as left behind


Rows = Iterator[tuple[int, Part | Aside]]
"""Parts of groups in order, and at each group's end what lay beside."""


def write_index(source: Source, home: Path, stem: str, known: dict[int, tuple[Part, Aside]], progress: bool) -> None:
    """Write the index of a source to a new directory of `home`, whose name begins with `stem`.

    known: groups that need not be read, by number. DataError when a group is empty or cannot be read; Unwritable when
    `home` cannot be written, or is full.
    """
    try:
        state = source.state()  # before anything is listed: a later change is then seen as one
    except OSError as error:
        raise _unreadable(source, error) from None
    write_rows(source, state, home, stem, _read(source, _with_known(source, known, progress)))


def _read(source: Source, rows: Rows) -> Rows:
    """The rows; errors of reading are then no errors of writing."""
    try:
        yield from rows
    except OSError as error:
        raise _unreadable(source, error) from None


def _unreadable(source: Source, error: OSError) -> DataError:
    return DataError(f"{os.fsdecode(error.filename or source.root)} cannot be read: {error.strerror or error}")


def write_rows(source: Source, state: list[list], home: Path, stem: str, rows: Rows) -> None:
    """`write_index` from rows that are there already; state: the source's when they were read."""
    temporary = home / f".{stem}.{socket.gethostname()}.{os.getpid()}.tmp"
    try:
        _sweep(home, source.split)
        temporary.mkdir()
        with (temporary / "entries.bin").open("wb") as entries, (temporary / "names.bin").open("wb") as names:
            meta = _Writer(source, entries, names).write(rows)
            for file in (entries, names):
                file.flush()
                os.fsync(file.fileno())
        with (temporary / "meta.json").open("w") as description:
            json.dump(meta | {"state": state}, description)
            description.flush()
            os.fsync(description.fileno())
        temporary.rename(home / f"{stem}-{time.time_ns():x}")
    except OSError as error:
        raise Unwritable(home, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(home: Path, split: str) -> None:
    """Remove what interrupted builds left: this machine's (the lock is held, so none is at work), others' when old."""
    for left in home.glob(f".{split}-*.tmp"):
        ours = f".{socket.gethostname()}." in left.name
        newest = max((file.stat().st_mtime for file in (left, *left.glob("*"))), default=0.0)
        if ours or time.time() - newest > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)


def _with_known(source: Source, known: dict[int, tuple[Part, Aside]], progress: bool) -> Rows:
    """The rows of all groups in order: known ones as they are, the others listed and read."""
    pieces = [piece for piece in source.pieces() if piece.group not in known]
    ends = {piece.group: position for position, piece in enumerate(pieces)}
    read = parts(source, pieces)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[done]}"),
               TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bar:
        unit = "classes" if source.own_files else "files"
        task = bar.add_task(
            f"Indexing {source.split} ({unit})", total=len(source.groups), completed=len(known), done=""
        )
        count = 0
        for group in range(len(source.groups)):
            if group in known:
                yield from ((group, part) for part in known[group])
                continue
            aside = Aside.none()
            before = count
            for position, found in read:
                if isinstance(found, Part):
                    count += len(found.entries)
                    bar.update(task, done=f"{count:,} images")
                    yield group, found
                    continue
                aside.folders.update(found.folders)
                aside.passed_over.join(found.passed_over)
                if position == ends[group]:
                    break
            if count == before:
                source.check()  # says which groups are empty, and what to do
            yield group, aside
            bar.update(task, advance=1)


class _Writer:
    """Streams parts to the two files of an index."""

    def __init__(self, source: Source, entries: BinaryIO, names: BinaryIO) -> None:
        self._source, self._entries, self._names = source, entries, names
        self._count = self._name_bytes = self._unreadable = 0
        self._classes: dict[str, int] = {}

    def write(self, rows: Rows) -> dict[str, Any]:
        """The index's description, once every sample is written."""
        starts, beside = [0], {}
        for group, part in rows:
            if isinstance(part, Part):
                self._write(part)
                continue
            starts.append(self._count)
            if part != Aside.none():
                beside[self._source.groups[group]] = part
        return {
            "version": VERSION,
            "source": self._source.kind,
            "split": self._source.split,
            "count": self._count,
            "names": self._name_bytes,
            "classes": list(self._classes),
            "starts": starts,
            "unreadable": self._unreadable,
            "beside": beside,
        }

    def _write(self, part: Part) -> None:
        if self._name_bytes + len(part.names) > _LARGEST_NAMES:
            raise DataError(f"{self._source.root} is larger than an index can describe (4 GiB of names)")
        classes = np.array([self._classes.setdefault(label, len(self._classes)) for label in part.labels], "<i4")
        entries = part.entries.copy()
        entries["label"] = classes[part.entries["label"]]
        entries["name"] += self._name_bytes
        self._entries.write(entries.tobytes())
        self._names.write(part.names)
        self._count += len(entries)
        self._name_bytes += len(part.names)
        self._unreadable += int(np.count_nonzero(entries["flags"] & int(Flag.UNREADABLE)))
