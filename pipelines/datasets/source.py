"""What a source of samples is: it finds its groups (class folders, shards), says cheaply whether they changed, lists the
samples of one group for the index, and tells which file holds a sample's bytes."""

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.datasets.files import OPEN, OpenFile, read_at, retried
from pipelines.datasets.image_headers import Header, ReadAt
from pipelines.datasets.passed_over import PassedOver
from pipelines.support.errors import DataError


class Found(NamedTuple):
    """A sample as its source lists it. name: unique in its group; place: byte offset in a shard, else 0."""

    name: str
    label: str
    place: int
    size: int


class Aside(NamedTuple):
    """What lies beside samples. folders: when each folder below a group was modified (ns), which `Source.state` does not
    cover; passed_over: what was left out."""

    folders: dict[str, int]
    passed_over: PassedOver

    @classmethod
    def none(cls) -> "Aside":
        """Nothing, yet."""
        return cls({}, PassedOver())


class Piece(NamedTuple):
    """What can be listed apart from the rest: the samples of a group from `start` on, up to `stop` (None: all that follow)."""

    group: int
    start: int = 0
    stop: int | None = None


class Source(ABC):
    """One split's files. groups: names of class folders or shards, sorted; own_files: whether each sample is a file of its
    own, and not a part of its group's; held_out: the share of each class that is the val split, where both lie together, else
    0; remarks: what was assumed in finding it, a line each; passed_over: what lies beside the groups."""

    kind: str
    groups: list[str]
    own_files: bool = False
    held_out: float = 0.0
    # What stands between a group and a sample's name: "n01440764/x.jpg", "train-000000.tar:dog/x.jpg".
    separator: str

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split
        self.remarks: list[str] = []
        self.passed_over = PassedOver()
        self._aside = Aside.none()
        weakref.finalize(self, OPEN.forget, str(root))

    @abstractmethod
    def state(self) -> list[list]:
        """What changes when samples come or go: cheap, and JSON-able. One list for each group, beginning with its name, then
        those of what concerns all groups."""

    @abstractmethod
    def check(self) -> None:
        """DataError when a group is empty, found without reading any image."""

    @abstractmethod
    def samples(self, group: int) -> Iterator[Found]:
        """The samples of one group, in a fixed order."""

    def pieces(self) -> list[Piece]:
        """All samples in pieces, in the order of the groups."""
        return [Piece(group) for group in range(len(self.groups))]

    def listed(self, piece: Piece) -> Iterator[Found]:
        """The samples of a piece, in the order of `samples`."""
        return self.samples(piece.group)

    @abstractmethod
    def file(self, group: int, name: str) -> str:
        """The path of the file that holds a sample."""

    def prefix(self, name: str) -> bytes:
        """What stands before a sample's stored bytes to make them an image file."""
        return b""

    def confirm(self, name: str, header: Header) -> None:  # noqa: B027  # most say nothing of a sample
        """DataError when a sample is not what the source says of it."""

    def reader(self, descriptor: int, name: str, place: int) -> ReadAt:
        """A way to read parts of one sample from its open file."""
        prefix = self.prefix(name)
        if not prefix:
            return lambda offset, count: os.pread(descriptor, count, place + offset)

        def read(offset: int, count: int) -> bytes:
            begin = prefix[offset : offset + count]
            return begin + os.pread(descriptor, count - len(begin), place + max(offset - len(prefix), 0))

        return read

    def opened(self, group: int, name: str) -> OpenFile:
        """The open file that holds a sample; OSError when it cannot be opened."""
        path = self.file(group, name)
        return OpenFile(path) if self.own_files else OPEN.get(path)

    def read(self, group: int, name: str, place: int, size: int) -> np.ndarray:
        """uint8 (size,): the sample's encoded bytes; OSError or DataError when they cannot be had."""
        return retried(lambda: self._read(group, name, place, size))

    def _read(self, group: int, name: str, place: int, size: int) -> np.ndarray:
        file = self.opened(group, name)
        if self.own_files and (found := file.stat().st_size) != size:
            raise DataError(f"it has {found} bytes where {size} were listed: it changed while in use")
        return read_at(file.descriptor, place, size, self.prefix(name))

    def aside(self) -> Aside:
        """What listing samples showed beside them, since this was last asked."""
        taken, self._aside = self._aside, Aside.none()
        return taken
