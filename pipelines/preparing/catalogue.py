"""The catalogue: every sample of a split that is to be prepared, in a fixed order, on disk, where all workers map it.

It holds where each sample lies in the input and what it will be called in the output: unique, safe as a path below the
class folder, and without a dot in its stem, which WebDataset takes for the end of a sample's key.
"""

import json
import mmap
import os
import pickle
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from pipelines.datasets.class_names import name_classes
from pipelines.datasets.forms import SPLITS
from pipelines.datasets.imagenet import open_train, open_val
from pipelines.datasets.location import Location
from pipelines.datasets.passed_over import PassedOver
from pipelines.datasets.several_labels import refuse
from pipelines.datasets.source import Piece, Source
from pipelines.preparing.output_names import CONTROL, OutputNames
from pipelines.support.errors import DataError
from pipelines.support.progress import progress_bar
from pipelines.support.work_sharing import Team

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
        self._entries = np.memmap(str(directory / f"{split}.entries"), _ENTRY, "r")
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
    another split settles them. What is listed waits on disk: in memory a sample takes a few tens of bytes. DataError when
    the split holds other classes, or no images."""
    source = open_source(inputs, split)
    try:
        source.check()
    except OSError as error:
        raise unreadable(error, str(source.root)) from None
    pieces = source.pieces()
    passed_over = PassedOver(source.passed_over)
    found: set[str] = set()
    with (directory / f"{split}.listed").open("w+b") as spool:
        places = [0] * len(pieces)
        with progress_bar(f"Listing {split}", len(pieces)) as advance:
            for number, (listed, beside) in team.run(_list_piece, [(inputs, split, piece) for piece in pieces]):
                places[number] = spool.tell()
                pickle.dump(listed, spool, pickle.HIGHEST_PROTOCOL)
                found.update(listed.labels)
                passed_over.join(beside)
                advance(1)
        if not found:
            raise DataError(f"{source.root} holds no images of the {split} split")
        labels = sorted(found)
        refuse(labels, f"{source.root} ({split})", "prepare.py")
        classes = name_classes(labels, f"{source.root} ({split})", expected)
        for name in classes.names:
            _check_class(name, source)
        name_of = dict(zip(labels, classes.names))
        in_order = partial(_listed_in_order, spool, [(piece.group, place) for piece, place in zip(pieces, places)])
        names = OutputNames(split)
        _write(in_order, directory, split, name_of, classes.order, names)
        if names.settle():  # some would come twice: known only now
            _write(in_order, directory, split, name_of, classes.order, names)
    (directory / f"{split}.listed").unlink()
    remarks = [*source.remarks, *classes.remarks, *filter(None, [str(passed_over)])]
    description = {"classes": classes.order, "passed_over": passed_over, "remarks": remarks}
    (directory / f"{split}.json").write_text(json.dumps(description))


class _Listed(NamedTuple):
    """Some samples of a group. places, sizes: bytes; label: positions in labels; names: of n samples, each with a zero byte
    behind it."""

    places: array
    sizes: array
    label: array
    labels: list[str]
    names: bytes


def _list_piece(task: tuple[Inputs, str, Piece]) -> tuple[_Listed, PassedOver]:
    inputs, split, piece = task
    source = open_source(inputs, split)
    source.aside()  # of a task before, which may have failed
    places, sizes, label, names = array("Q"), array("Q"), array("I"), bytearray()
    labels: dict[str, int] = {}
    try:
        for found in source.listed(piece):
            places.append(found.place)
            sizes.append(found.size)
            label.append(labels.setdefault(found.label, len(labels)))
            names += os.fsencode(found.name) + b"\0"
    except OSError as error:
        raise unreadable(error, source.file(piece.group, "")) from None
    return _Listed(places, sizes, label, list(labels), bytes(names)), source.aside().passed_over


def _listed_in_order(spool: BinaryIO, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, _Listed]]:
    """Each group with samples of it, as they lie in the spool."""
    for group, place in places:
        spool.seek(place)
        yield group, pickle.load(spool)


def _write(
    in_order: Callable[[], Iterator[tuple[int, _Listed]]],
    directory: Path,
    split: str,
    name_of: dict[str, str],
    order: Sequence[str],
    output: "OutputNames",
) -> None:
    """Write the catalogue's entries and names."""
    position = {name: number for number, name in enumerate(order)}
    at = 0
    with (directory / f"{split}.names").open("wb") as names, (directory / f"{split}.entries").open("wb") as entries:
        for group, listed in in_order():
            classes = [name_of[label] for label in listed.labels]
            rows = np.zeros(len(listed.places), _ENTRY)
            rows["place"], rows["size"], rows["group"] = listed.places, listed.sizes, group
            rows["label"] = np.array([position[name] for name in classes], np.uint32)[np.array(listed.label, np.int64)]
            starts = []
            for name, label in zip(listed.names.split(b"\0"), listed.label):
                starts.append(at)
                at += names.write(name + b"\0" + os.fsencode(output.name(os.fsdecode(name), classes[label])) + b"\0")
            rows["name"] = starts
            entries.write(rows.tobytes())


def unreadable(error: OSError, where: str) -> DataError:
    """An input that the system does not let read; where: its path when the error names none."""
    return DataError(f"{os.fsdecode(error.filename or where)} cannot be read: {error.strerror or error}")


def _check_class(label: str, source: Source) -> None:
    if "/" in label or label.startswith(".") or CONTROL.search(label):
        raise DataError(f"{source.root} holds class {label!r}, which cannot be a folder's name; rename it")
