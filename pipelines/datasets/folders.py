"""Samples in a folder of class folders."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.datasets.image_names import IMAGES, suffix
from pipelines.datasets.source import Found, Source
from pipelines.support.errors import DataError


class Folders(Source):
    """One folder a class; images may lie in folders below it."""

    kind, separator, own_files = "folders", "/", True

    def __init__(self, root: Path, split: str, classes: list[str]) -> None:
        super().__init__(root, split)
        self.groups = classes

    def state(self) -> list[list]:
        return [[name, (self.root / name).stat().st_mtime_ns] for name in self.groups]

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
            self._aside.folders[f"{self.groups[group]}/{below}"[:-1]] = (top / below).stat().st_mtime_ns
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
                size = os.stat(self.file(group, name)).st_size  # noqa: PTH116  # pathlib takes twice as long
            except OSError:  # a dangling link: indexed as unreadable
                size = 0
            yield Found(name, self.groups[group], 0, size)

    def file(self, group: int, name: str) -> str:
        return f"{self.root}/{self.groups[group]}/{name}"
