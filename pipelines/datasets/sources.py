"""Where samples lie: a folder of class folders, or tar shards in WebDataset's layout; FFCV's files are in `beton`.

A source finds its groups (class folders, shards), says cheaply whether they changed, lists the samples of one group
for the index, and later reads a sample's bytes.
"""

import mmap
import os
import resource
import tarfile
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.datasets.image_headers import ReadAt
from pipelines.support.errors import DataError, nearest

IMAGES = frozenset({"jpg", "jpeg", "jpe", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"})


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
    def opened(self, group: int, name: str, place: int) -> tuple[ReadAt, "_Closer"]:
        """A way to read parts of one sample without mapping it, for the index."""

    @abstractmethod
    def read(self, group: int, name: str, place: int, size: int) -> np.ndarray:
        """uint8 (size,): the sample's encoded bytes; OSError or DataError when they cannot be had."""

    def folders(self) -> dict[str, int]:
        """Modification times (ns) of folders below the groups, which `state` does not cover."""
        return {}


class _Closer:
    """Closes a file descriptor at the end of a `with`; -1 stands for none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def suffix(name: str) -> str:
    """The lower-case file name extension without its dot."""
    return name.rpartition(".")[2].lower()


def find_source(path: Path, split: str) -> Source:
    """The source of PATH/split/<class>/*, PATH/split/*.tar, PATH/split-*.tar or PATH/split.beton; DataError when there
    is none."""
    if not path.exists():
        raise DataError(f"data directory {path} does not exist")
    if not path.is_dir():
        raise DataError(
            f"{path} is no directory; give the one that holds '{split}' (class folders, tar shards or a .beton)"
        )
    below = path / split
    beside = sorted(entry.name for entry in path.glob(f"{split}-*.tar"))
    inside = sorted(entry.name for entry in below.glob("*.tar"))
    beton = (path / f"{split}.beton").is_file()
    classes: list[str] = []
    if below.is_dir():
        classes = sorted(entry.name for entry in os.scandir(below) if entry.is_dir() and not entry.name.startswith("."))
    forms = {f"{split}-*.tar": beside, f"{split}/*.tar": inside, "folders": classes, f"{split}.beton": beton}
    found = [what for what, there in forms.items() if there]
    if len(found) > 1:
        raise DataError(f"{path} holds the '{split}' split more than once ({' and '.join(found)}); keep one of them")
    if beton:
        from pipelines.datasets.beton import Beton  # is a Source, so it cannot come first

        return Beton(path, split)
    if beside:
        return Shards(path, split, beside)
    if inside:
        return Shards(below, split, inside)
    if classes:
        return Folders(below, split, classes)
    if below.is_dir():
        raise DataError(f"{below} holds no class folders and no tar shards; expected {split}/<class>/*.jpg")
    entries = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    raise DataError(
        f"no '{split}' split in {path}: expected {split}/<class>/*.jpg, {split}/*.tar, {split}-*.tar or {split}.beton"
        + (nearest(split, entries) if entries else "; the directory is empty")
    )


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

    def opened(self, group: int, name: str, place: int) -> tuple[ReadAt, _Closer]:
        descriptor = os.open(self._path(group, name), os.O_RDONLY | os.O_CLOEXEC)
        return lambda offset, count: os.pread(descriptor, count, offset), _Closer(descriptor)

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

    def opened(self, group: int, name: str, place: int) -> tuple[ReadAt, _Closer]:
        descriptor = os.open(self.root / self.groups[group], os.O_RDONLY | os.O_CLOEXEC)
        return lambda offset, count: os.pread(descriptor, count, place + offset), _Closer(descriptor)

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
