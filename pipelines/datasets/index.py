"""The index: one fixed-size entry a sample, on disk, memory-mapped, built once from image headers.

It lives in a directory named by a fingerprint of the data, beside the data or in the user's cache when that is
read-only. It is written under a temporary name and renamed when complete, so that no reader ever sees it change. Groups
(class folders, shards) that did not change since an older index are taken over from it, and the older one is removed as
soon as nobody reads it.

The files outrank it: it only says where to look. Whoever reads a sample compares the file with its entry.
"""

import errno
import fcntl
import json
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.datasets.files import FINAL, OpenFile
from pipelines.datasets.image_headers import Flag, Header
from pipelines.datasets.index_places import Unwritable, directories, homes, remove, try_to_write
from pipelines.datasets.index_writing import VERSION, write_index, write_rows
from pipelines.datasets.indexing import ENTRY, Part, made_part
from pipelines.datasets.passed_over import PassedOver
from pipelines.datasets.source import Aside, Found, Source
from pipelines.support.cache import temporary_cache
from pipelines.support.errors import DataError
from pipelines.support.locks import machine_lock


@dataclass(frozen=True)
class Index:
    """entries: memory-mapped structured array (n,) of `ENTRY`, in which a change is this process's own; classes: names by
    label; starts: int64 (groups + 1,), where each group's entries begin; unreadable: how many samples no decoder could
    read; passed_over: what was left out."""

    directory: Path
    entries: np.ndarray
    classes: list[str]
    starts: np.ndarray
    unreadable: int
    passed_over: PassedOver
    _meta: dict[str, Any]
    _names: mmap.mmap
    _in_use: OpenFile

    @property
    def fingerprint(self) -> str:
        """Names the data that was indexed: another when files come or go."""
        return sha256(json.dumps([self._meta["state"], self._meta["beside"]]).encode()).hexdigest()[:16]

    def name(self, entry: int) -> str:
        """The sample's name in its group."""
        return os.fsdecode(self.name_at(int(self.entries["name"][entry])))

    def name_at(self, offset: int) -> bytes:
        """The name that an entry's "name" points to."""
        return self._names[offset : self._names.find(b"\0", offset)]

    @property
    def kind(self) -> str:
        """The kind of source."""
        return self._meta["source"]

    @property
    def beside(self) -> dict[str, list]:
        """By a group's name the two fields of its `Aside`."""
        return self._meta["beside"]

    @cached_property
    def state_of(self) -> dict[str, list]:
        """By a group's name its number and its state when it was indexed."""
        states = self._meta["state"][: len(self.starts) - 1]
        return {state[0]: [number, state] for number, state in enumerate(states)}

    @property
    def common_state(self) -> list[list]:
        """What the source's state says of all groups together."""
        return self._meta["state"][len(self.starts) - 1 :]

    def part(self, group: int, number: int) -> tuple[Part, Aside]:
        """A group's samples and what lay beside them, as those of group `number` of another index."""
        start, stop = self.starts[group : group + 2]
        entries = np.array(self.entries[start:stop])
        begin = int(entries["name"][0])
        last = int(entries["name"][-1])
        used, entries["label"] = np.unique(entries["label"], return_inverse=True)
        entries["name"] -= begin
        entries["group"] = number
        names = self._names[begin : self._names.find(b"\0", last) + 1]
        folders, passed_over = self._meta["beside"].get(self._meta["state"][group][0], ({}, {}))
        return Part(number, entries, names, [self.classes[label] for label in used]), Aside(
            folders, PassedOver(passed_over)
        )


def open_index(
    found_again: Callable[[], Source], source: Source, data: Path, progress: bool, renew: bool = False
) -> Index:
    """The source's index, built first if there is none: by one process a machine, while others wait.

    found_again: gives the source as it is by then, of which groups may have come or gone. renew: read every header again,
    whatever an index says. Where one place cannot be written, or fills up, the next is tried.
    """
    places = homes(data)
    if not renew and (found := _find(places, _stem(source), source)):
        return found
    refused: list[str] = []
    for place in (*places, None):  # the last one is made when it is needed
        home = place or temporary_cache() / places[-1].name
        try:
            return _built(found_again, source, home, [*places, home], progress, renew, refused)
        except Unwritable as error:
            refused.append(f"{home} ({error.reason})")
    raise DataError(f"no place for the index of {source.root}: {', '.join(refused)}; make room, or set XDG_CACHE_HOME")


def _built(
    found_again: Callable[[], Source], source: Source, home: Path, places: list[Path], progress: bool, renew: bool,
    refused: list[str],
) -> Index:  # fmt: skip
    """The index, built in `home` unless another process has built it meanwhile; refused: the places that could not be written,
    which is said. Unwritable when this one cannot be."""
    try_to_write(home)
    stem = _stem(source)  # making a place may change the folder that it lies in
    waiting_since = time.time()
    failure = home / f"{source.split}.failed"
    with machine_lock(home / f"{source.split}.lock", progress) as waited:
        if not renew and (found := _find(places, stem, source)):
            return found
        if waited and failure.exists() and failure.stat().st_mtime >= waiting_since:
            # The process waited for has met it: all say the same, at once.
            raise DataError(failure.read_text(encoding="utf-8", errors="surrogateescape"))
        if refused and progress:
            print(f"index: {', '.join(refused)} cannot be written; it is kept in {home}", file=sys.stderr, flush=True)
        try:
            write_index(source, home, stem, {} if renew else _unchanged(places, source), progress)
        except Unwritable:
            raise
        except DataError as error:
            with suppress(OSError):  # then those who wait find out by themselves
                failure.write_text(str(error), encoding="utf-8", errors="surrogateescape")
            raise
        with suppress(OSError):
            failure.unlink(missing_ok=True)
        found = _find(places, stem, source) if _stem(found_again()) == stem else None
        if found:
            _remove_superseded(places, source, found)
        else:
            _read_back(home, stem)
    if not found:
        raise DataError(f"{source.root} changed while it was indexed; start again when it is at rest")
    return found


def _read_back(home: Path, stem: str) -> None:
    """Unwritable when what was just written cannot be read."""
    try:
        for name in os.listdir(home):  # noqa: PTH208
            if name.startswith(stem):
                (home / name / "meta.json").read_bytes()
    except OSError as error:
        raise Unwritable(home, error) from None


def _stem(source: Source) -> str:
    digest = sha256(json.dumps([VERSION, source.kind, source.state()]).encode()).hexdigest()[:16]
    return f"{source.split}-{digest}"


def _find(places: list[Path], stem: str, source: Source) -> Index | None:
    for directory in directories(places, f"{stem}*"):
        found = _load(directory)
        if found and not _changed_below(found, source):
            return found
    return None


def _load(directory: Path) -> Index | None:
    """The index in a directory; nothing when it is of another version, or was removed meanwhile."""
    try:
        in_use = OpenFile(str(directory / "meta.json"))
        with suppress(OSError):  # on file systems without locks nothing is removed that might be in use
            fcntl.flock(in_use.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        meta = json.loads((directory / "meta.json").read_bytes())
        if meta["version"] != VERSION:
            return None
        entries = np.memmap(str(directory / "entries.bin"), ENTRY, "c")
        with (directory / "names.bin").open("rb") as file:
            names = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(entries) != meta["count"] or len(names) != meta["names"]:
            raise ValueError("its files are cut off")
        passed_over = PassedOver()
        for _, beside in meta["beside"].values():
            passed_over.join(beside)
        starts = np.array(meta["starts"], np.int64)
        if [*starts[[0, -1]]] != [0, len(entries)] or len(meta["state"]) < len(starts) - 1:
            raise ValueError("its groups do not add up")
        return Index(directory, entries, meta["classes"], starts, meta["unreadable"], passed_over, meta, names, in_use)
    except OSError as error:
        if error.errno not in FINAL:
            raise DataError(
                f"index {directory} cannot be read: {error.strerror}; start again when the storage works"
            ) from None
        if error.errno != errno.ENOENT:  # another user's, perhaps: another is made
            print(f"index {directory} cannot be read ({error.strerror}) and is not used", file=sys.stderr, flush=True)
        return None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"index {directory} is damaged ({error}); delete that directory") from None


def _changed_below(index: Index, source: Source) -> set[str]:
    """The groups of which a folder changed that lies below them."""
    changed = set()
    for group, (folders, _) in index.beside.items():
        for folder, modified in folders.items():
            try:
                same = (source.root / folder).stat().st_mtime_ns == modified
            except (FileNotFoundError, NotADirectoryError):
                same = False
            if not same:
                changed.add(group)
    return changed


def _unchanged(places: list[Path], source: Source) -> dict[int, tuple[Part, Aside]]:
    """What the newest older index knows of groups that are as they were, by their number now; without those that hold
    samples it could not read."""
    for directory in directories(places, f"{source.split}-*"):
        with suppress(DataError):  # a damaged one is no help
            old = _load(directory)
            if old is not None and old.kind == source.kind:
                return _shared(old, source)
    return {}


def _shared(old: Index, source: Source) -> dict[int, tuple[Part, Aside]]:
    state, count = source.state(), len(source.groups)
    if state[count:] != old.common_state:
        return {}
    changed, before = _changed_below(old, source), old.state_of
    unreadable = set(old.entries["group"][old.entries["flags"] & int(Flag.UNREADABLE) != 0].tolist())
    known = {}
    for number, group_state in enumerate(state[:count]):
        place, its_state = before.get(group_state[0], (-1, None))
        if its_state == group_state and place not in unreadable and group_state[0] not in changed:
            known[number] = old.part(place, number)
    return known


def _remove_superseded(places: list[Path], source: Source, current: Index) -> None:
    """Remove the indexes that no dataset needs any more and nobody reads: those of groups that changed or went since, and
    those of the same groups or fewer."""
    state = {row[0]: row for row in source.state()[: len(source.groups)]}
    for directory in directories(places, f"{source.split}-*"):
        if directory == current.directory:
            continue
        try:
            meta = json.loads((directory / "meta.json").read_text())
            rows = meta["state"][: len(meta["starts"]) - 1] if meta["version"] == VERSION else []
        except (OSError, ValueError, KeyError):
            rows = []
        others = [row[0] for row in rows if row[0] not in state]
        changed = any(state.get(row[0], row) != row for row in rows)
        if not others or changed or not all((source.root / name).exists() for name in others):
            remove(directory)


def record_index(
    source: Source, data: Path, rows: Iterable[tuple[int, list[tuple[Found, Header | None]] | None]]
) -> None:
    """Write a source's index from what is known already, as whoever has just written its samples knows it.

    rows: (group, samples with their headers, None for what cannot be read) in the order of groups and of the samples in
    them, followed by (group, None) at each group's end.
    """
    stem, places = _stem(source), homes(data)
    home = places[0]
    try_to_write(home)
    with machine_lock(home / f"{source.split}.lock", False):
        if not _find([home], stem, source):
            write_rows(source, source.state(), home, stem, _as_parts(source, rows))


def _as_parts(source: Source, rows: Iterable[tuple[int, list[tuple[Found, Header | None]] | None]]) -> Iterator:
    for group, samples in rows:
        if samples is None:
            yield group, Aside.none()
        elif samples:
            modified = os.stat(source.file(group, samples[0][0].name)).st_mtime_ns  # noqa: PTH116  # a shard's
            yield group, made_part(group, [(found, modified, header) for found, header in samples])
