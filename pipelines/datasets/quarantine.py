"""The list of images to leave out: names, one a line, of one split or of both."""

from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.forms import SPLITS
from pipelines.datasets.index import Index
from pipelines.datasets.source import Source
from pipelines.support.errors import DataError, nearest


def read_quarantine(file: Path, source: Source, index: Index, shared: bool) -> NDArray[np.int64]:
    """int64 (n,): the entries of a split's index that a list names, sorted; shared: names that do not tell their split are the
    training split's. DataError when the list cannot be read, or names what is not there."""
    try:
        # At line feeds alone: names may hold all else that Python's splitlines take for the end of a line.
        lines = file.read_bytes().decode("utf-8-sig", "surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"quarantine file {file} cannot be read: {error.strerror}") from None
    wanted: dict[str, list[tuple[int, str, str]]] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if name and not name.startswith("#") and (name := _in_split(name, source, shared)):
            group, _, member = name.partition(source.separator)
            wanted.setdefault(group, []).append((number, name, member))
    groups = {name: number for number, name in enumerate(source.groups)}
    found: set[int] = set()
    for group, members in wanted.items():
        if group not in groups:
            number, name, _ = members[0]
            raise DataError(f"{file}, line {number}: no sample {name!r} in {source.root}{nearest(group, groups)}")
        found.update(_find_members(file, source, index, groups[group], members))
    return np.array(sorted(found), np.int64)


def _in_split(name: str, source: Source, shared: bool) -> str:
    """A quarantined sample's name in this split; empty for another split's."""
    for split in SPLITS:
        if name.startswith(f"{split}/") and split not in source.groups:
            return name.removeprefix(f"{split}/") if split == source.split else ""
        if source.separator == ":" and name.startswith((f"{split}-", f"{split}.")):
            return name if split == source.split else ""
    return "" if shared and source.split != "train" else name


def _find_members(
    file: Path, source: Source, index: Index, group: int, members: list[tuple[int, str, str]]
) -> list[int]:
    start, stop = index.starts[group : group + 2]
    entry_of = {index.name(entry): entry for entry in range(start, stop)}
    for number, name, member in members:
        if member not in entry_of:
            close = get_close_matches(member, list(entry_of)[:20000], n=1)
            hint = f" (nearest: {name.removesuffix(member)}{close[0]})" if close else ""
            raise DataError(f"{file}, line {number}: no sample {name!r} in {source.root}{hint}")
    return [entry_of[member] for _, _, member in members]
