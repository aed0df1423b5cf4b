"""Samples in tar shards in WebDataset's layout."""

import os
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from pipelines.datasets.image_names import IMAGES, suffix
from pipelines.datasets.source import Found, Source
from pipelines.support.errors import DataError


class Shards(Source):
    """Tar files in WebDataset's layout: the parts of a sample share a key, the name up to its first dot."""

    kind, separator = "shards", ":"

    def __init__(self, root: Path, split: str, names: list[str]) -> None:
        super().__init__(root, split)
        self.groups = names

    def state(self) -> list[list]:
        stats = [(name, (self.root / name).stat()) for name in self.groups]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    def check(self) -> None:
        for group, name in enumerate(self.groups):
            if next(iter(self._members(group)), None) is None:
                raise DataError(f"shard {self.root / name} holds no samples; remove it or make it again")

    def _members(self, group: int) -> Iterator[tarfile.TarInfo]:
        path = self.root / self.groups[group]
        try:
            with tarfile.open(path, "r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
                    if member.isreg():
                        yield member
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"shard {path} is damaged or no tar file ({error}); make it again") from None

    def samples(self, group: int) -> Iterator[Found]:
        with (self.root / self.groups[group]).open("rb") as shard:
            size = os.fstat(shard.fileno()).st_size
            for _, members in groupby(self._members(group), lambda member: _split_key(member.name)[0]):
                parts = list(members)
                images = _images(parts)
                for image in images:
                    if image.offset_data + image.size > size:
                        raise DataError(
                            f"shard {self.root / self.groups[group]} is cut off in {image.name}; make it again"
                        )
                    yield Found(image.name, self._label(group, shard, parts, image), image.offset_data, image.size)

    def _label(self, group: int, shard, parts: list[tarfile.TarInfo], image: tarfile.TarInfo) -> str:
        for part in parts:
            if _split_key(part.name)[1] == "cls":
                label = os.pread(shard.fileno(), part.size, part.offset_data).decode("utf-8", "replace").strip()
                if label and "\n" not in label:
                    return label
                raise DataError(f"{self.root / self.groups[group]}:{part.name} is no class: expected one line of text")
        folders = [part for part in image.name.split("/")[:-1] if part not in ("", ".")]
        if folders[:1] == [self.split]:
            folders = folders[1:]
        if not folders:
            raise DataError(
                f"{self.root / self.groups[group]}:{image.name} has no class: expected a .cls member beside it, "
                "or a class folder in its name"
            )
        return folders[0]

    def file(self, group: int, name: str) -> str:
        return f"{self.root}/{self.groups[group]}"


def _split_key(name: str) -> tuple[str, str]:
    """WebDataset's split of a member's name: up to the first dot of the last part, and what follows it."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def _images(parts: list[tarfile.TarInfo]) -> list[tarfile.TarInfo]:
    """The samples among members of one key. `a.jpg` beside `a.mask.png` is one sample with an extra; `a.1.jpg` and
    `a.2.jpg` are two whose names hold a dot."""
    plain = [part for part in parts if _split_key(part.name)[1] in IMAGES]
    return plain[:1] or [part for part in parts if suffix(part.name) in IMAGES]
