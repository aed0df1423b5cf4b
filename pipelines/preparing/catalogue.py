"""The catalogue: every sample of a split that is to be prepared, in a fixed order, on disk, where all workers map it.

It holds where each sample lies in the input and what it will be called in the output: unique, safe as a path below the
class folder, and without a dot in its stem, which WebDataset takes for the end of a sample's key.
"""

import json
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.datasets.class_names import name_classes
from pipelines.datasets.forms import SPLITS
from pipelines.datasets.imagenet import open_train, open_val
from pipelines.datasets.location import Location
from pipelines.datasets.passed_over import PassedOver
from pipelines.datasets.source import Found, Source
from pipelines.support.errors import DataError
from pipelines.support.progress import progress_bar
from pipelines.support.work_sharing import Team

# Characters that end a line, or do worse, in lists of names.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
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
    """Where the input lies: a dataset, or ImageNet's archives. Absolute paths."""

    location: Location | None = None
    train: Path | None = None
    val: Path | None = None
    labels: Path | None = None

    def splits(self) -> list[str]:
        """Which of "train" and "val" there are; DataError when there is neither."""
        if self.location is None:
            return [split for split in SPLITS if getattr(self, split) is not None]
        return self.location.splits()


@cache
def open_source(inputs: Inputs, split: str) -> Source:
    """The split's source; opened once a process."""
    if inputs.location is not None:
        return inputs.location.source(split)
    if split == "train":
        assert inputs.train is not None
        return open_train(inputs.train)
    assert inputs.val is not None
    return open_val(inputs.val, inputs.labels, inputs.train)


class Sample(NamedTuple):
    """One sample. group, name, place, size: where its source has it; label, number: its class; output: its name in the
    output, "class/file"."""

    group: int
    name: str
    place: int
    size: int
    label: str
    number: int
    output: str


class Catalogue:
    """A split's samples by position, memory-mapped. classes: names by label; counts: int64 (classes,) samples of each;
    bytes: of all samples; passed_over: what the input holds beside them; remarks: what was assumed, a line each."""

    def __init__(self, directory: Path, split: str) -> None:
        description = json.loads((directory / f"{split}.json").read_text())
        self.split = split
        self.classes: list[str] = description["classes"]
        self.passed_over = PassedOver(description["passed_over"])
        self.remarks: list[str] = description["remarks"]
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
            yield Sample(group, name, place, size, self.classes[label], label, output)


def build_catalogue(
    team: Team, inputs: Inputs, split: str, directory: Path, expected: Sequence[str] | None = None
) -> None:
    """List a split's groups in parallel and write its catalogue to the directory; expected: the classes by number, when
    another split settles them. DataError when it holds others."""
    source = open_source(inputs, split)
    source.check()
    groups = len(source.groups)
    listed: list[list[Found]] = [[] for _ in range(groups)]
    passed_over = PassedOver(source.passed_over)
    with progress_bar(f"Listing {split}", groups) as advance:
        for group, (found, beside) in team.run(_list_group, [(inputs, split, group) for group in range(groups)]):
            listed[group] = found
            passed_over.join(beside)
            advance(1)
    if not any(listed):
        raise DataError(f"{source.root} holds no images of the {split} split")
    labels = sorted({found.label for rows in listed for found in rows})
    classes = name_classes(labels, f"{source.root} ({split})", expected)
    for name in classes.names:
        _check_class(name, source)
    place = {name: number for number, name in enumerate(classes.order)}
    name_of = dict(zip(labels, classes.names))
    names, rows, name_bytes = _Names(split), [], 0
    with (directory / f"{split}.names").open("wb") as file:
        for group, members in enumerate(listed):
            for found in members:
                label = name_of[found.label]
                both = os.fsencode(found.name) + b"\0" + os.fsencode(names.output(found.name, label)) + b"\0"
                rows.append((found.place, found.size, name_bytes, group, place[label]))
                name_bytes += file.write(both)
    np.array(rows, _ENTRY).tofile(directory / f"{split}.entries")
    remarks = [*source.remarks, *classes.remarks, *filter(None, [str(passed_over)])]
    description = {"classes": classes.order, "passed_over": passed_over, "remarks": remarks}
    (directory / f"{split}.json").write_text(json.dumps(description))


def _list_group(task: tuple[Inputs, str, int]) -> tuple[list[Found], PassedOver]:
    inputs, split, group = task
    source = open_source(inputs, split)
    source.aside()  # of a task before, which may have failed
    try:
        return list(source.samples(group)), source.aside().passed_over
    except OSError as error:
        raise unreadable(error) from None


def unreadable(error: OSError) -> DataError:
    """An input that the system does not let read."""
    return DataError(f"{os.fsdecode(error.filename or 'the input')} cannot be read: {error.strerror or error}")


def _check_class(label: str, source: Source) -> None:
    if "/" in label or label.startswith(".") or _CONTROL.search(label):
        raise DataError(f"{source.root} holds class {label!r}, which cannot be a folder's name; rename it")


class _Names:
    """Gives each sample of a split the name it has in the output."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._keys: set[str] = set()

    def output(self, name: str, label: str) -> str:
        """ "class/stem.extension", perhaps with folders between, its key (all before the dot) given once only; without an
        extension where the input has none."""
        *folders, file = [part for part in name.split("/") if part not in ("", ".")]
        for prefix in (self._split, label):  # shards made from folders name them in their members
            if folders[:1] == [prefix]:
                folders = folders[1:]
        *folders, file = [_CONTROL.sub("_", part) for part in (*folders, file)]
        stem, _, extension = file.rpartition(".") if "." in file else (file, "", "")
        stem = (stem or "image").replace(".", "_")
        key = "/".join([label, *(folder.lstrip(".") or "_" for folder in folders), stem])
        if key in self._keys:
            number = 2
            while f"{key}-{number}" in self._keys:
                number += 1
            key = f"{key}-{number}"
        self._keys.add(key)
        return f"{key}.{extension}" if extension else key
