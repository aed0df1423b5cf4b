"""The index: one fixed-size entry a sample, on disk, memory-mapped, built once from image headers.

It lives in a directory named by a fingerprint of the data, beside the data or in the user's cache when that is
read-only. It is written under a temporary name and renamed when complete, so that no reader ever sees it change.
"""

import json
import mmap
import os
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.datasets.image_headers import Flag, Header, probe
from pipelines.datasets.source import Found, Source
from pipelines.support.cache import user_cache
from pipelines.support.cores import usable_cores
from pipelines.support.errors import DataError
from pipelines.support.locks import machine_lock

VERSION = 2
ENTRY = np.dtype(
    [
        ("place", "<u8"),  # byte offset in a shard; 0 for a file
        ("name", "<u4"),  # byte offset in the names
        ("size", "<u4"),  # bytes
        ("label", "<i4"),  # position in the index's classes
        ("group", "<u2"),  # position in the source's groups (class folders or shards)
        ("width", "<u2"),  # pixels, as displayed
        ("height", "<u2"),
        ("flags", "<u2"),  # jpeg.Flag in the low byte, EXIF orientation in the high byte
    ]
)
_CHUNK = 256  # samples a task
_WORKERS = min(32, 4 * usable_cores())  # more than cores: the time goes into waiting for storage
_ABANDONED = 24 * 3600.0  # seconds after which another machine's unfinished index counts as left behind


@dataclass(frozen=True)
class Index:
    """entries: memory-mapped structured array (n,) of `ENTRY`; classes: names by label; starts: int64 (groups + 1,),
    where each group's entries begin; unreadable: how many samples no decoder can read."""

    directory: Path
    entries: np.ndarray
    classes: list[str]
    starts: np.ndarray
    unreadable: int
    _names: mmap.mmap

    def name(self, entry: int) -> str:
        """The sample's name in its group."""
        return os.fsdecode(self.name_at(int(self.entries["name"][entry])))

    def name_at(self, offset: int) -> bytes:
        """The name that an entry's "name" points to."""
        return self._names[offset : self._names.find(b"\0", offset)]


def open_index(source: Source, data: Path, progress: bool) -> Index:
    """The source's index, built first if there is none: by one process a machine, while others wait."""
    stem = _stem(source)
    homes = _homes(data)
    found = _find(homes, stem, source)
    if found:
        return found
    home = _writable(homes)
    waiting_since = time.time()
    failure = home / f"{stem}.failed"
    with machine_lock(home / f"{stem}.lock", progress) as waited:
        found = _find([home], stem, source)
        if found:
            return found
        if waited and failure.exists() and failure.stat().st_mtime >= waiting_since:
            raise DataError(
                failure.read_text(encoding="utf-8", errors="surrogateescape")
            )  # the process waited for has met it: all say the same, at once
        try:
            _build(source, home, stem, progress)
        except DataError as error:
            failure.write_text(str(error), encoding="utf-8", errors="surrogateescape")
            raise
        failure.unlink(missing_ok=True)
        found = _find([home], stem, source)
    if not found:
        raise DataError(f"{source.root} changed while it was indexed; start again when it is at rest")
    return found


def _stem(source: Source) -> str:
    digest = sha256(json.dumps([VERSION, source.kind, source.state()]).encode()).hexdigest()[:16]
    return f"{source.split}-{digest}"


def _homes(data: Path) -> list[Path]:
    return [data / ".index", _user_cache(data)]


def _user_cache(data: Path) -> Path:
    return user_cache() / f"{data.name}-{sha256(os.fsencode(data)).hexdigest()[:12]}"


def _writable(homes: list[Path]) -> Path:
    for home in homes:
        try:
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=home):
                return home
        except OSError as error:
            reason = error.strerror
    raise DataError(
        f"no place for the index: neither {homes[0]} nor {homes[1]} is writable ({reason}); set XDG_CACHE_HOME"
    )


def _find(homes: list[Path], stem: str, source: Source) -> Index | None:
    for home in homes:
        for directory in sorted(home.glob(f"{stem}*")):
            found = _load(directory, source) if (directory / "meta.json").is_file() else None
            if found:
                return found
    return None


def _load(directory: Path, source: Source) -> Index | None:
    """The index in a directory, or nothing when folders below the class folders changed since."""
    try:
        meta = json.loads((directory / "meta.json").read_text())
        for folder, modified in meta["folders"].items():
            if not (source.root / folder).is_dir() or (source.root / folder).stat().st_mtime_ns != modified:
                return None
        entries = np.memmap(directory / "entries.bin", ENTRY, "r")
        with (directory / "names.bin").open("rb") as file:
            names = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(entries) != meta["count"] or len(names) != meta["names"]:
            raise ValueError("its files are cut off")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"index {directory} is damaged ({error}); delete that directory") from None
    return Index(directory, entries, meta["classes"], np.array(meta["starts"], np.int64), meta["unreadable"], names)


def record_index(source: Source, data: Path, headers: "Iterable[Row]") -> None:
    """Write a source's index from what is known already, as whoever has just written its samples knows it.

    headers: (group, samples with their headers, None for what cannot be read) in the order of groups and of the samples
    in them, followed by (group, None) at each group's end.
    """
    stem = _stem(source)
    homes = _homes(data)
    home = _writable(homes)
    with machine_lock(home / f"{stem}.lock", False):
        if not _find([home], stem, source):
            _build(source, home, stem, False, headers)


def _build(source: Source, home: Path, stem: str, progress: bool, headers: "Iterable[Row] | None" = None) -> None:
    source.check()
    if len(source.groups) > 65535:
        raise DataError(f"{source.root} holds {len(source.groups)} {source.kind}; at most 65535 are supported")
    _sweep(home, stem)
    temporary = home / f".{stem}.{socket.gethostname()}.{os.getpid()}.tmp"
    temporary.mkdir()
    try:
        with (temporary / "entries.bin").open("wb") as entries, (temporary / "names.bin").open("wb") as names:
            meta = _Writer(source, entries, names).write(progress, headers)
            for file in (entries, names):
                file.flush()
                os.fsync(file.fileno())
        with (temporary / "meta.json").open("w") as description:
            json.dump(meta, description)
            description.flush()
            os.fsync(description.fileno())
        nested = sha256(json.dumps(meta["folders"]).encode()).hexdigest()[:8] if meta["folders"] else ""
        final = home / (f"{stem}-{nested}" if nested else stem)
        try:
            temporary.rename(final)
        except OSError:
            if not (final / "meta.json").is_file():  # another machine may have been first, with the same content
                raise
    except OSError as error:
        raise DataError(f"the index of {source.root} cannot be written to {home}: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(home: Path, stem: str) -> None:
    """Remove what interrupted builds left: this machine's (the lock is held, so none is at work), others' when old."""
    for left in home.glob(f".{stem}.*.tmp"):
        ours = left.name.startswith(f".{stem}.{socket.gethostname()}.")
        newest = max((file.stat().st_mtime for file in (left, *left.glob("*"))), default=0.0)
        if ours or time.time() - newest > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)


Row = tuple[int, list[tuple[Found, Header | None]] | None]  # a group's samples and headers, or the group's end


class _Writer:
    """Streams the entries of a source to disk: headers are read in parallel, written in order, never held."""

    def __init__(self, source: Source, entries: BinaryIO, names: BinaryIO) -> None:
        self._source, self._entries, self._names = source, entries, names
        self._count = self._name_bytes = self._unreadable = 0
        self._classes: dict[str, int] = {}

    def write(self, progress: bool, headers: Iterable[Row] | None) -> dict:
        """The index's description, once every sample is written; headers that are not given are read."""
        starts = [0]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[done]}"),
                   TimeRemainingColumn())  # fmt: skip
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bar:
            unit = "classes" if self._source.kind == "folders" else "shards"
            task = bar.add_task(f"Indexing {self._source.split} ({unit})", total=len(self._source.groups), done="")
            for group, rows in self._probed() if headers is None else headers:
                if rows is None:
                    starts.append(self._count)
                    bar.update(task, advance=1)
                else:
                    self._write(group, rows)
                    bar.update(task, done=f"{self._count:,} images")
        return {
            "version": VERSION,
            "source": self._source.kind,
            "split": self._source.split,
            "count": self._count,
            "names": self._name_bytes,
            "classes": list(self._classes),
            "starts": starts,
            "unreadable": self._unreadable,
            "folders": self._source.folders(),
        }

    def _probed(self) -> Iterator[Row]:
        """(group, rows) for each chunk in order, and (group, None) at each group's end; few chunks are in flight."""
        pool = ThreadPoolExecutor(_WORKERS, "index")
        in_flight: deque[tuple[int, Future | None]] = deque()
        try:
            for group in range(len(self._source.groups)):
                found = self._source.samples(group)
                while chunk := list(islice(found, _CHUNK)):
                    in_flight.append((group, pool.submit(self._probe, group, chunk)))
                    while len(in_flight) > 2 * _WORKERS:
                        yield _done(in_flight.popleft())
                in_flight.append((group, None))
            while in_flight:
                yield _done(in_flight.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _probe(self, group: int, chunk: list[Found]) -> list[tuple[Found, Header | None]]:
        return [(found, self._header(group, found)) for found in chunk]

    def _header(self, group: int, found: Found) -> Header | None:
        try:
            read_at, closing = self._source.opened(group, found.name, found.place)
            with closing:
                return probe(read_at, found.size)
        except (DataError, OSError):
            return None

    def _write(self, group: int, rows: Iterable[tuple[Found, Header | None]]) -> None:
        rows = list(rows)
        entries = np.zeros(len(rows), ENTRY)
        names = bytearray()
        for number, (found, header) in enumerate(rows):
            label = self._classes.setdefault(found.label, len(self._classes))
            name = self._name_bytes + len(names)
            if name > 0xFFFFFFFF or found.size > 0xFFFFFFFF:
                raise DataError(
                    f"{self._source.root} is larger than an index can describe (4 GiB of names or a sample)"
                )
            names += os.fsencode(found.name) + b"\0"
            if header is None:
                self._unreadable += 1
                header = Header(0, 0, 1, Flag.UNREADABLE)
            flags = int(header.flags) | header.orientation << 8
            entries[number] = (found.place, name, found.size, label, group, header.width, header.height, flags)
        self._entries.write(entries.tobytes())
        self._names.write(names)
        self._count += len(rows)
        self._name_bytes += len(names)


def _done(item: tuple[int, Future | None]):
    group, future = item
    return group, None if future is None else future.result()
