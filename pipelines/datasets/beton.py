"""FFCV's file format, `.beton`: reading its tables, and one split's samples in it as a source.

A file holds a header, a description of its fields, one row of metadata a sample, the samples' bytes in pages that no
sample crosses, and a table of where they lie (ffcv/types.py and ffcv/writer.py, version 1.0.2). Class names are no part
of the format; they are kept in a JSON file beside it. Needs neither FFCV nor numba.
"""

import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from pipelines.datasets.image_headers import ReadAt
from pipelines.datasets.source import Closer, Found, Source
from pipelines.support.errors import DataError

VERSION = 2
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),  # written last: 0 in a file whose writer was interrupted
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)])
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
JPEG, RAW = 0, 1  # an image's mode: a JPEG, or pixels as uint8 (height, width, 3)
# The metadata of each type of field, by FFCV's number for it.
INT_FIELD, RGB_FIELD = 1, 2
_BYTES = np.dtype([("ptr", "<u8"), ("size", "<u8")])
_FIELD_TYPES = {0: np.dtype("<f8"), INT_FIELD: np.dtype("<i8"), RGB_FIELD: IMAGE, 3: _BYTES}
_CHUNK = 1 << 16  # samples listed at a time


def classes_file(file: Path) -> Path:
    """Where the class names of a .beton are kept: {"classes": [name of label 0, ...]}."""
    return file.with_name(f"{file.name}.json")


class Tables:
    """A .beton's tables, memory-mapped. images: structured array (n,) of `IMAGE`; labels: int64 (n,); DataError when the
    file is damaged, unfinished, or holds no images with labels."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.size = file.stat().st_size
        header = self._read(HEADER, 0, 1, "header")[0]
        if header["version"] != VERSION:
            raise DataError(f"{file} is no FFCV file of version {VERSION}; write it again")
        self.page_size = int(header["page_size"])
        self._count = int(header["num_samples"])
        self._allocated = int(header["alloc_table_ptr"])
        if self._allocated == 0:
            raise DataError(f"{file} is unfinished: its writer was interrupted; write it again")
        if self._allocated > self.size:
            raise DataError(f"{file} is cut off in its samples; write it again")
        if self._count == 0:
            raise DataError(f"{file} holds no samples; write it again")
        fields = self._read(FIELD, HEADER.itemsize, int(header["num_fields"]), "fields")
        image, label = self._find(fields, RGB_FIELD, "RGBImageField"), self._find(fields, INT_FIELD, "IntField")
        unknown = [int(kind) for kind in fields["type_id"] if int(kind) not in _FIELD_TYPES]
        if unknown:
            raise DataError(f"{file} holds a field of FFCV's type {unknown[0]}; images, numbers and bytes can be read")
        row = np.dtype([("", _FIELD_TYPES[int(kind)]) for kind in fields["type_id"]], align=True)
        start = HEADER.itemsize + fields.nbytes
        if start + self._count * row.itemsize > self.size:
            raise DataError(f"{file} is cut off in its metadata; write it again")
        rows = np.memmap(file, row, "r", start, (self._count,))
        self.images, self.labels = rows[f"f{image}"], rows[f"f{label}"]

    def _read(self, kind: np.dtype, offset: int, count: int, what: str) -> np.ndarray:
        found = np.fromfile(self.file, kind, count, offset=offset)
        if len(found) < count:
            raise DataError(f"{self.file} is cut off in its {what}; write it again")
        return found

    def _find(self, fields: np.ndarray, kind: int, name: str) -> int:
        numbers = np.flatnonzero(fields["type_id"] == kind)
        if len(numbers) != 1:
            raise DataError(
                f"{self.file} holds {len(numbers)} fields of FFCV's {name}; an image and a label are expected"
            )
        return int(numbers[0])

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _allocations(self) -> np.ndarray:
        """Structured array of `ALLOCATION`, sorted by place."""
        table = np.fromfile(self.file, ALLOCATION, offset=self._allocated)
        return table[np.argsort(table["ptr"])]

    def sizes(self, places: np.ndarray) -> np.ndarray:
        """int64 (n,): the bytes at each place; DataError when the file does not hold them all."""
        table = self._allocations
        rows = np.minimum(np.searchsorted(table["ptr"], places), len(table) - 1)
        found = table["size"][rows].astype(np.int64)
        if (
            not len(table)
            or (table["ptr"][rows] != places).any()
            or (places + found.astype(np.uint64) > self.size).any()
        ):
            raise DataError(f"{self.file} does not hold all that its tables name; write it again")
        return found

    def forget_sizes(self) -> None:
        """Free the table of sizes, which only listing needs."""
        self.__dict__.pop("_allocations", None)


class Beton(Source):
    """PATH/<split>.beton. Samples are named by their number in it; raw pixels read as a PPM file."""

    kind, separator = "beton", ":"

    def __init__(self, path: Path, split: str) -> None:
        super().__init__(path, split)
        self.groups = [f"{split}.beton"]
        self.file = path / self.groups[0]
        self.tables = Tables(self.file)
        self._classes = self._read_classes()

    def _read_classes(self) -> list[str]:
        file = classes_file(self.file)
        if not file.is_file():
            return []
        try:
            classes = json.loads(file.read_text(encoding="utf-8"))["classes"]
        except (OSError, ValueError, KeyError, TypeError):
            classes = None
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise DataError(f'{file} is damaged; expected {{"classes": [names]}}. Remove it to use numbers as names')
        return classes

    def state(self) -> list[list]:
        stat = self.file.stat()
        return [[self.groups[0], stat.st_size, stat.st_mtime_ns], self._classes]

    def check(self) -> None:
        """Nothing is left to find: the tables say that there are samples."""

    def samples(self, group: int) -> Iterator[Found]:
        for start in range(0, len(self.tables), _CHUNK):
            images = self.tables.images[start : start + _CHUNK]
            modes, places = images["mode"], images["data_ptr"]
            sizes = self.tables.sizes(places)
            wrong = np.flatnonzero(modes > RAW)
            if len(wrong):
                raise DataError(
                    f"{self.file}:{start + wrong[0]} is stored in FFCV's mode {modes[wrong[0]]}, not jpg or raw"
                )
            labels = self.tables.labels[start : start + _CHUNK].tolist()
            for row, (label, mode, place, size) in enumerate(
                zip(labels, modes.tolist(), places.tolist(), sizes.tolist())
            ):
                if mode == RAW:
                    size += len(self._ppm_header(start + row))
                yield Found(f"{start + row:08}", self._class(label), place, size)
        self.tables.forget_sizes()

    def _class(self, label: int) -> str:
        if not self._classes:
            return str(label)
        if not 0 <= label < len(self._classes):
            raise DataError(
                f"{self.file} holds label {label}, but {classes_file(self.file)} names {len(self._classes)} classes"
            )
        return self._classes[label]

    def _ppm_header(self, row: int) -> bytes:
        """What makes raw pixels a file that any decoder reads."""
        image = self.tables.images[row]
        return b"P6 %d %d 255\n" % (image["width"], image["height"])

    def opened(self, group: int, name: str, place: int) -> tuple[ReadAt, Closer]:
        descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        image = self.tables.images[int(name)]
        if image["mode"] == JPEG:
            if os.pread(descriptor, 2, place) != b"\xff\xd8":
                os.close(descriptor)
                raise DataError("it is no JPEG, as its file says")
            return lambda offset, count: os.pread(descriptor, count, place + offset), Closer(descriptor)
        header = self._ppm_header(int(name))

        def read_at(offset: int, count: int) -> bytes:
            begin = header[offset : offset + count]
            return begin + os.pread(descriptor, count - len(begin), place + max(offset - len(header), 0))

        return read_at, Closer(descriptor)

    def read(self, group: int, name: str, place: int, size: int) -> np.ndarray:
        header = b"" if self.tables.images["mode"][int(name)] == JPEG else self._ppm_header(int(name))
        size -= len(header)
        if place + size > len(self._bytes):
            raise DataError("its file is shorter than when it was indexed: it changed while in use")
        stored = self._bytes[place : place + size]
        return np.concatenate([np.frombuffer(header, np.uint8), stored]) if header else stored

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.memmap(self.file, np.uint8, "r")
