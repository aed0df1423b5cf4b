"""Samples in tar shards in WebDataset's layout."""

import mmap
import os
import resource
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from pipelines.datasets.image_headers import ReadAt
from pipelines.datasets.image_names import IMAGES, suffix
from pipelines.datasets.source import Closer, Found, Source
from pipelines.support.errors import DataError


class Shards(Source):
    """Tar files in WebDataset's layout: the parts of a sample share a key, the name up to its first dot."""

    kind, separator = "shards", ":"

    def __init__(self, root: Path, split: str, names: list[str]) -> None:
        super().__init__(root, split)
        self.groups = names
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._lock = threading.Lock()
        # Every map holds a file descriptor; stay well below the limit however many shards there are.
        self._most_maps = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, 16)

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

    def opened(self, group: int, name: str, place: int) -> tuple[ReadAt, Closer]:
        descriptor = os.open(self.root / self.groups[group], os.O_RDONLY | os.O_CLOEXEC)
        return lambda offset, count: os.pread(descriptor, count, place + offset), Closer(descriptor)

    def read(self, group: int, name: str, place: int, size: int) -> np.ndarray:
        mapped = self._map(group)
        if place + size > len(mapped):  # beyond the end of a map lies a bus error
            raise DataError("its shard is shorter than when it was indexed: it changed while in use")
        return np.frombuffer(mapped, np.uint8, size, place)

    def _map(self, group: int) -> mmap.mmap:
        with self._lock:
            mapped = self._maps.get(group)
            if mapped is None:
                with (self.root / self.groups[group]).open("rb") as shard:
                    mapped = mmap.mmap(shard.fileno(), 0, access=mmap.ACCESS_READ)
                self._maps[group] = mapped
                if len(self._maps) > self._most_maps:
                    self._maps.popitem(last=False)  # unmapped when the last array over it is gone
            else:
                self._maps.move_to_end(group)
            return mapped


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
