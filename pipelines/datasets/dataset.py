"""A dataset: the samples of one split, addressed by position, with their labels, sizes and encoded bytes."""

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.class_names import name_classes
from pipelines.datasets.files import Located, OpenFile, read_at, retried
from pipelines.datasets.forms import HELD_OUT, SPLITS, find_source, source_at
from pipelines.datasets.image_headers import Flag, Header, planes_and_images, probe_bytes
from pipelines.datasets.index import Index, open_index
from pipelines.datasets.passed_over import PassedOver
from pipelines.datasets.quarantine import read_quarantine
from pipelines.datasets.several_labels import items_of, refuse, table
from pipelines.datasets.source import Source
from pipelines.support.errors import DataError, nearest


def sample_path() -> str:
    """The embedded dataset: a small part of CIFAR-10 with the splits "train" and "val"."""
    return str(Path(__file__).parents[1] / "sample")


def open_dataset(
    path: str | os.PathLike,
    split: str,
    *,
    alone: bool = False,
    classes: Sequence[str] | None = None,
    quarantine: str | os.PathLike | None = None,
    shared: bool = False,
    exif: bool = True,
    progress: bool = True,
    renew: bool = False,
    held_out: float = HELD_OUT,
    without: Collection[str] = (),
) -> "Dataset":
    """Open one split ("train" or "val") of class folders, tar shards, an FFCV file or a list, indexing it on first use.

    path: the dataset's folder, in any of the forms of docs/data.md; alone: it is the split itself, perhaps as a pattern of
    shards. classes: the class names that labels are positions in, such as the training split's; by default the split's
    own. quarantine: a file of sample names to leave out, one a line; a name may begin with its split ("val/..."), and names of
    another split are passed over. shared: the file serves both splits, so that names that do not tell their split are the
    training split's. exif: display images as EXIF says they were taken, else as they are stored. renew: read every image's header
    again, whatever an index says of it. held_out: the share of each class that is the val split where a folder has no splits.
    without: groups (class folders, shards) to leave out, for whoever checks the rest of a damaged dataset. DataError says what is
    wrong with any of it.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}{nearest(split, SPLITS)}; choose from {', '.join(SPLITS)}")
    root = Path(os.path.realpath(Path(path).expanduser()))  # of links in a circle, pathlib raises an error

    def found() -> Source:
        source = source_at(os.fspath(path), split) if alone else find_source(root, split, held_out)
        source.groups = [group for group in source.groups if group not in without]
        return source

    try:
        source = found()
        if held_out not in (HELD_OUT, source.held_out):
            source.remarks.append(
                f"nothing is held out, as {100 * held_out:g}% should be: {source.root} is a split itself"
            )
        index = open_index(found, source, source.root if alone else root, progress, renew)
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be read: {error.strerror or error}") from None
    return Dataset(source, index, classes, quarantine, shared, exif)


class Dataset:
    """The samples of one split, without those in quarantine. Positions run from 0 to len - 1; memory use does not grow
    with the number of samples, since the index stays on disk. Safe to use from several threads."""

    def __init__(
        self,
        source: Source,
        index: Index,
        classes: Sequence[str] | None = None,
        quarantine: str | os.PathLike | None = None,
        shared: bool = False,
        exif: bool = True,
    ) -> None:
        self.path, self.split = str(source.root), source.split
        self.source, self._index, self.exif = source, index, exif
        where = f"{self.path} ({self.split})"
        items = items_of(index.classes, where)
        named = name_classes(index.classes if items is None else items, where, classes)
        self.classes, self._assumed = named.order, named.remarks
        position = {name: number for number, name in enumerate(self.classes)}
        self._labels = np.array([position[name] for name in named.names], np.int64)
        # uint8 (combinations, classes) where images have several labels: `labels` are then its rows.
        self.combinations: NDArray[np.uint8] | None = None
        if items is not None:
            class_of = dict(zip(items, self._labels.tolist()))
            self.combinations = table(index.classes, class_of, len(self.classes), where)
            self._labels = np.arange(len(index.classes))
            self._assumed = (*self._assumed, f"several labels an image: {len(index.classes):,} combinations")
        self._excluded = (
            read_quarantine(Path(quarantine), source, index, shared) if quarantine else np.empty(0, np.int64)
        )
        # Excluded entry k stands before position excluded[k] - k: what positions are moved by.
        self._shifts = self._excluded - np.arange(len(self._excluded))
        self._unreadable = self._still_unreadable()
        if len(self) == 0:
            raise DataError(f"quarantine file {quarantine} leaves out every sample of {self.path}")

    @property
    def fingerprint(self) -> str:
        """Names the data as it is now: another when files come or go."""
        return f"{self.path}:{self._index.fingerprint}"

    def __len__(self) -> int:
        return len(self._index.entries) - len(self._excluded)

    @property
    def passed_over(self) -> PassedOver:
        """What lies with the samples and is none, or cannot be one."""
        found = PassedOver(self.source.passed_over)
        found.join(self._index.passed_over)
        return found

    @property
    def remarks(self) -> list[str]:
        """What was assumed of the data, and what of it was passed over: a line each."""
        return [*self.source.remarks, *self._assumed, *filter(None, [str(self.passed_over)])]

    @property
    def holds_planes(self) -> bool:
        """Whether any sample is planes of luma and chroma, and no encoded image."""
        return self.planes_and_images()[0] > 0

    def planes_and_images(self) -> tuple[int, int]:
        """How many samples are planes of luma and chroma, and how many encoded images; what cannot be read is neither."""
        flags = self._index.entries["flags"]
        planes, images = (planes_and_images(flags) - planes_and_images(flags[self._excluded])).tolist()
        return planes, images

    @property
    def held_out(self) -> float:
        """The share of each class that is the val split, where both lie together; else 0."""
        return self.source.held_out

    @property
    def quarantined(self) -> int:
        """How many samples are left out."""
        return len(self._excluded)

    def labels(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """int64 (n,): positions in `classes`; rows of `combinations` where images have several."""
        return self._labels[self._index.entries["label"][self._entries(indices)]]

    def require_single_labels(self, who: str) -> None:
        """DataError where images have several labels, which `who` does not take."""
        if self.combinations is not None:
            refuse(self._index.classes, self.path, who)

    def sizes(self, indices: NDArray[np.integer]) -> NDArray[np.int32]:
        """int32 (n, 2): width and height in pixels as displayed, after EXIF rotation; 0 for unreadable samples."""
        entries = self._index.entries[self._entries(indices)]
        sizes = np.stack([entries["width"], entries["height"]], axis=1).astype(np.int32)
        return sizes if self.exif else np.where((entries["flags"] >> 8 >= 5)[:, None], sizes[:, ::-1], sizes)

    def flags(self, indices: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """int64 (n,) twice: `jpeg.Flag` of each sample, and the EXIF orientation 1..8 by which it is displayed."""
        flags = self._index.entries["flags"][self._entries(indices)].astype(np.int64)
        return flags & 0xFF, flags >> 8 if self.exif else np.ones_like(flags)

    def entries(self, indices: NDArray[np.integer]) -> np.ndarray:
        """Structured array (n,) of `index.ENTRY`: all that the index knows of each sample."""
        return self._index.entries[self._entries(indices)]

    def read(self, index: int) -> np.ndarray:
        """uint8 (bytes,): the sample's encoded bytes as they are now. Where its file is not as it was indexed, `entries` and
        what they say of size, orientation and flags are those of the file from now on. DataError when it cannot be read, or a
        shard changed so that something else lies in the sample's place."""
        try:
            return retried(lambda: self._read(self._entry(index)))
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read: {error.strerror}") from None
        except DataError as error:
            raise DataError(f"{self.name(index)}: {error}") from None

    def _read(self, number: int) -> np.ndarray:
        entry, source = self._index.entries[number], self.source
        name = self._index.name(number)
        file = source.opened(int(entry["group"]), name)
        stat = file.stat()
        same = stat.st_mtime_ns == entry["modified"]
        if source.own_files:
            same = same and stat.st_size == entry["size"]
        size = stat.st_size if source.own_files else int(entry["size"])
        data = read_at(file.descriptor, int(entry["place"]), size, source.prefix(name))
        if not same or entry["flags"] & int(Flag.UNREADABLE):
            self._renew(number, name, data, stat.st_mtime_ns)
        return data

    def _renew(self, number: int, name: str, data: np.ndarray, modified: int) -> None:
        """Take over what a sample's bytes show now. DataError when they are not those that were indexed, of a shard."""
        before = self._index.entries[number]
        try:
            header = probe_bytes(data.data)
            self.source.confirm(name, header)
        except DataError:
            header = Header(0, 0, 1, Flag.UNREADABLE)  # whoever decodes it will say why
        now = before.copy()
        now["width"], now["height"] = header.width, header.height
        now["flags"] = int(header.flags) | header.orientation << 8
        known = not before["flags"] & int(Flag.UNREADABLE)
        if not self.source.own_files and known and now != before:
            raise DataError("its shard changed while in use; start again")
        now["size"], now["modified"] = len(data), modified
        self._index.entries[number] = now

    def located(self, indices: NDArray[np.integer]) -> "Located":
        """Where the samples' bytes lie, for a decoder that reads them itself. What cannot be opened has no place."""
        entries = self.entries(indices)
        if self.source.own_files:
            names = [
                os.fsencode(self.source.file(group, os.fsdecode(self._index.name_at(at)))) + b"\0"
                for group, at in zip(entries["group"].tolist(), entries["name"].tolist())
            ]
            lengths = np.array([len(name) for name in names], np.int64)
            return Located(b"".join(names), np.cumsum(lengths) - lengths, np.full(len(names), -1, np.int32), [])
        opened: dict[int, OpenFile] = {}
        for group in np.unique(entries["group"]).tolist():
            with suppress(OSError):  # who reads it without this says why
                opened[group] = self.source.opened(group, "")
        files = [opened[group].descriptor if group in opened else -1 for group in entries["group"].tolist()]
        return Located(b"", None, np.array(files, np.int32), list(opened.values()))

    def encoded(self, indices: NDArray[np.integer]) -> list[bytes | np.ndarray | None]:
        """For each sample its file's path, as bytes, when it has a file of its own that is as it was indexed, else its encoded
        bytes, uint8 (size,), as `read` gives them; None when they are not there, or not as they were."""
        if self.source.own_files:
            return self._paths(self.entries(indices))
        found: list[bytes | np.ndarray | None] = []
        for index in indices.tolist():
            try:
                found.append(self.read(index))
            except DataError:
                found.append(None)
        return found

    def _paths(self, entries: np.ndarray) -> list[bytes | np.ndarray | None]:
        found: list[bytes | np.ndarray | None] = []
        for group, at, size, modified in entries[["group", "name", "size", "modified"]].tolist():
            path = os.fsencode(self.source.file(group, os.fsdecode(self._index.name_at(at))))
            try:
                stat = os.stat(path)  # noqa: PTH116  # pathlib takes twice as long
                found.append(path if (stat.st_size, stat.st_mtime_ns) == (size, modified) else None)
            except OSError:
                found.append(None)
        return found

    def name(self, index: int) -> str:
        """The sample's path, or shard.tar:member."""
        return f"{self.path}/{self.short_name(index)}"

    def short_name(self, index: int) -> str:
        """The sample's name below the dataset's folder, as quarantine files hold it."""
        entry = self._entry(index)
        group = self.source.groups[int(self._index.entries["group"][entry])]
        return f"{group}{self.source.separator}{self._index.name(entry)}"

    def unreadable(self) -> NDArray[np.int64]:
        """int64 (n,): the samples that could be read neither when they were indexed nor when the dataset was opened."""
        return self._unreadable

    def _still_unreadable(self) -> NDArray[np.int64]:
        """The samples that the index marks as unreadable, without those that can be read by now."""
        if not self._index.unreadable:
            return np.empty(0, np.int64)
        entries = np.flatnonzero(self._index.entries["flags"] & int(Flag.UNREADABLE))
        entries = np.setdiff1d(entries, self._excluded)
        indices = entries - np.searchsorted(self._excluded, entries)
        return np.array([index for index in indices.tolist() if self.reason(index)], np.int64)

    def reason(self, index: int) -> str:
        """Why a sample cannot be read, in a few words; empty when it can."""
        try:
            probe_bytes(self.read(index).data)
        except DataError as error:
            return str(error).removeprefix(f"{self.name(index)}: ").removeprefix(f"{self.name(index)} ")
        return ""

    def _entries(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        wanted: NDArray[np.int64] = np.asarray(indices, np.int64)
        if not len(self._excluded):
            return wanted
        return wanted + np.searchsorted(self._shifts, wanted, side="right")

    def _entry(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} is outside a dataset of {len(self)}")
        return int(self._entries(np.array([index]))[0])
