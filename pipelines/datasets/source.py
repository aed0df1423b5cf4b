"""What a source of samples is: it finds its groups (class folders, shards), says cheaply whether they changed, lists the
samples of one group for the index, and later reads a sample's bytes."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.datasets.image_headers import ReadAt


class Found(NamedTuple):
    """A sample as its source lists it. name: unique in its group; place: byte offset in a shard, else 0."""

    name: str
    label: str
    place: int
    size: int


class Source(ABC):
    """One split's files. groups: names of class folders or shards, sorted."""

    kind: str
    groups: list[str]
    # What stands between a group and a sample's name: "n01440764/x.jpg", "train-000000.tar:dog/x.jpg".
    separator: str

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split

    @abstractmethod
    def state(self) -> list[list]:
        """What changes when samples come or go: cheap, and JSON-able."""

    @abstractmethod
    def check(self) -> None:
        """DataError when a group is empty, found without reading any image."""

    @abstractmethod
    def samples(self, group: int) -> Iterator[Found]:
        """The samples of one group, in a fixed order."""

    @abstractmethod
    def opened(self, group: int, name: str, place: int) -> tuple[ReadAt, "Closer"]:
        """A way to read parts of one sample without mapping it, for the index."""

    @abstractmethod
    def read(self, group: int, name: str, place: int, size: int) -> np.ndarray:
        """uint8 (size,): the sample's encoded bytes; OSError or DataError when they cannot be had."""

    def folders(self) -> dict[str, int]:
        """Modification times (ns) of folders below the groups, which `state` does not cover."""
        return {}


class Closer:
    """Closes a file descriptor at the end of a `with`; -1 stands for none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
