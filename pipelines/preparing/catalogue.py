"""The catalogue: every sample of a split that is to be prepared, in a fixed order, on disk, where all workers map it.

It holds where each sample lies in the input and what it will be called in the output: unique, safe as a path below the
class folder, and without a dot in its stem, which WebDataset takes for the end of a sample's key.
"""

import json
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.datasets.forms import find_source
from pipelines.datasets.imagenet import open_train, open_val
from pipelines.datasets.source import Found, Source
from pipelines.support.errors import DataError, nearest
from pipelines.support.progress import progress_bar
from pipelines.support.work_sharing import Team

SPLITS = ("train", "val")
_ENTRY = np.dtype(
    [
        ("place", "<u8"),  # byte offset in an archive or shard; 0 for a file
        ("size", "<u8"),  # bytes
        ("name", "<u8"),  # byte offset in the names: the input's name, then the output's
        ("group", "<u4"),  # position in the source's groups
        ("label", "<u4"),  # position in classes
    ]
)


@dataclass(frozen=True)
class Inputs:
    """Where the input lies: ImageNet's archives, or a dataset's folder (`path`). Absolute paths."""

    path: Path | None = None
    train: Path | None = None
    val: Path | None = None
    labels: Path | None = None

    def splits(self) -> list[str]:
        """Which of "train" and "val" there are; DataError when there is neither."""
        if self.path is None:
            return [split for split in SPLITS if getattr(self, split) is not None]
        if not self.path.is_dir():
            raise DataError(f"{self.path} is no directory" if self.path.exists() else f"{self.path} does not exist")
        found = [split for split in SPLITS if _holds(self.path, split)]
        if not found:
            raise DataError(
                f"{self.path} holds neither a train nor a val split: expected train/<class>/*.jpg or train-*.tar"
            )
        return found


def _holds(path: Path, split: str) -> bool:
    return (path / split).is_dir() or (path / f"{split}.beton").is_file() or any(path.glob(f"{split}-*.tar"))


@cache
def open_source(inputs: Inputs, split: str) -> Source:
    """The split's source; opened once a process."""
    if inputs.path is not None:
        return find_source(inputs.path, split)
    if split == "train":
        assert inputs.train is not None
        return open_train(inputs.train)
    assert inputs.val is not None
    return open_val(inputs.val, inputs.labels, inputs.train)


class Sample(NamedTuple):
    """One sample. group, name, place, size: where its source has it; label: its class; output: its name
    in the output, "class/file"."""

    group: int
    name: str
    place: int
    size: int
    label: str
    output: str


class Catalogue:
    """A split's samples by position, memory-mapped. classes: names by label; counts: int64 (classes,) samples of each;
    bytes: of all samples."""

    def __init__(self, directory: Path, split: str) -> None:
        description = json.loads((directory / f"{split}.json").read_text())
        self.split = split
        self.classes: list[str] = description["classes"]
        self._entries = np.memmap(directory / f"{split}.entries", _ENTRY, "r")
        with (directory / f"{split}.names").open("rb") as file:
            self._names = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        return int(self._entries["size"].sum())

    @property
    def counts(self) -> np.ndarray:
        return np.bincount(self._entries["label"], minlength=len(self.classes))

    def samples(self, positions: np.ndarray) -> Iterator[Sample]:
        """The samples at positions int64 (n,), in that order."""
        for place, size, start, group, label in self._entries[positions].tolist():
            middle = self._names.find(b"\0", start)
            end = self._names.find(b"\0", middle + 1)
            name, output = os.fsdecode(self._names[start:middle]), os.fsdecode(self._names[middle + 1 : end])
            yield Sample(group, name, place, size, self.classes[label], output)


def build_catalogue(team: Team, inputs: Inputs, split: str, directory: Path) -> None:
    """List a split's groups in parallel and write its catalogue to the directory."""
    source = open_source(inputs, split)
    source.check()
    groups = len(source.groups)
    listed: list[list[Found]] = [[] for _ in range(groups)]
    with progress_bar(f"Listing {split}", groups) as advance:
        for group, found in team.run(_list_group, [(inputs, split, group) for group in range(groups)]):
            listed[group] = found
            advance(1)
    labels = sorted({found.label for rows in listed for found in rows})
    for label in labels:
        _check_class(label, source)
    number_of = {label: number for number, label in enumerate(labels)}
    names, rows, name_bytes = _Names(split), [], 0
    with (directory / f"{split}.names").open("wb") as file:
        for group, members in enumerate(listed):
            for found in members:
                name = os.fsencode(found.name) + b"\0" + os.fsencode(names.output(found)) + b"\0"
                rows.append((found.place, found.size, name_bytes, group, number_of[found.label]))
                name_bytes += file.write(name)
    np.array(rows, _ENTRY).tofile(directory / f"{split}.entries")
    (directory / f"{split}.json").write_text(json.dumps({"classes": labels}))


def _list_group(task: tuple[Inputs, str, int]) -> list[Found]:
    inputs, split, group = task
    return list(open_source(inputs, split).samples(group))


def _check_class(label: str, source: Source) -> None:
    if "/" in label or "\0" in label or label.startswith("."):
        raise DataError(f"{source.root} holds class {label!r}, which cannot be a folder's name; rename it")


def check_classes(train: Catalogue, val: Catalogue) -> None:
    """DataError when a class of the val split is none of the train split's."""
    unknown = sorted(set(val.classes) - set(train.classes))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(
            f"the val split holds class {unknown[0]!r}{more}, which is none of the {len(train.classes)} of the train split"
            + nearest(unknown[0], train.classes)
        )


class _Names:
    """Gives each sample of a split the name it has in the output."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._keys: set[str] = set()

    def output(self, found: Found) -> str:
        """ "class/stem.extension", perhaps with folders between, its key (all before the dot) given once only; without an
        extension where the input has none."""
        *folders, file = [part for part in found.name.split("/") if part not in ("", ".")]
        for prefix in (self._split, found.label):  # shards made from folders name them in their members
            if folders[:1] == [prefix]:
                folders = folders[1:]
        stem, _, extension = file.rpartition(".") if "." in file else (file, "", "")
        stem = (stem or "image").replace(".", "_")
        key = "/".join([found.label, *(folder.lstrip(".") or "_" for folder in folders), stem])
        if key in self._keys:
            number = 2
            while f"{key}-{number}" in self._keys:
                number += 1
            key = f"{key}-{number}"
        self._keys.add(key)
        return f"{key}.{extension}" if extension else key
