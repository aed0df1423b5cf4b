"""Samples in a folder of class folders."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.datasets.image_headers import ReadAt
from pipelines.datasets.image_names import IMAGES, suffix
from pipelines.datasets.source import Closer, Found, Source
from pipelines.support.errors import DataError


class Folders(Source):
    """One folder a class; images may lie in folders below it."""

    kind, separator = "folders", "/"

    def __init__(self, root: Path, split: str, classes: list[str]) -> None:
        super().__init__(root, split)
        self.groups = classes
        self._nested: dict[str, int] = {}

    def state(self) -> list[list]:
        return [[name, (self.root / name).stat().st_mtime_ns] for name in self.groups]

    def folders(self) -> dict[str, int]:
        return self._nested

    def check(self) -> None:
        empty = [name for number, name in enumerate(self.groups) if next(self._names(number), None) is None]
        if empty:
            more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
            raise DataError(
                f"class folder {self.root / empty[0]}{more} holds no images; add images ({', '.join(sorted(IMAGES))}) "
                "or remove the folder"
            )

    def _names(self, group: int, below: str = "") -> Iterator[str]:
        """Image names relative to the class folder, sorted, folders last."""
        top = self.root / self.groups[group]
        if below:  # taken before listing: a later change is then seen as one
            self._nested[f"{self.groups[group]}/{below}"[:-1]] = (top / below).stat().st_mtime_ns
        files, folders = [], []
        with os.scandir(top / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if suffix(entry.name) in IMAGES and not entry.is_dir():
                    files.append(entry.name)
                elif entry.is_dir():
                    folders.append(entry.name)
        yield from (below + name for name in sorted(files))
        for folder in sorted(folders):
            yield from self._names(group, f"{below}{folder}/")

    def samples(self, group: int) -> Iterator[Found]:
        for name in self._names(group):
            try:
                size = os.stat(self._path(group, name)).st_size  # noqa: PTH116  # pathlib takes twice as long
            except OSError:  # a dangling link: indexed as unreadable
                size = 0
            yield Found(name, self.groups[group], 0, size)

    def _path(self, group: int, name: str) -> str:
        return f"{self.root}/{self.groups[group]}/{name}"

    def opened(self, group: int, name: str, place: int) -> tuple[ReadAt, Closer]:
        descriptor = os.open(self._path(group, name), os.O_RDONLY | os.O_CLOEXEC)
        return lambda offset, count: os.pread(descriptor, count, offset), Closer(descriptor)

    def read(self, group: int, name: str, place: int, size: int) -> np.ndarray:
        data = np.empty(size, np.uint8)
        descriptor = os.open(self._path(group, name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            got = os.preadv(descriptor, [data.data], 0) if size else 0
            while 0 < got < size:
                more = os.preadv(descriptor, [data[got:].data], got)
                if more == 0:
                    break
                got += more
        finally:
            os.close(descriptor)
        if got != size:
            raise DataError(f"it has {got} bytes where {size} were indexed: it changed while in use")
        return data
