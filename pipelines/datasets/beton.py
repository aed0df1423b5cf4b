"""FFCV's file format, `.beton`: reading its tables, and one split's samples in it as a source.

A file holds a header, a description of its fields, one row of metadata a sample, the samples' bytes in pages that no
sample crosses, and a table of where they lie (ffcv/types.py and ffcv/writer.py, version 1.0.2). Class names are no part
of the format; they are kept in a JSON file beside it. Needs neither FFCV nor numba.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from pipelines.datasets.files import check_regular, mode_of
from pipelines.datasets.image_headers import Flag, Header
from pipelines.datasets.source import Found, Piece, Source
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
_TOGETHER = 256  # samples whose metadata is read at once


def classes_file(file: Path) -> Path:
    """Where the class names of a .beton are kept: {"classes": [name of label 0, ...]}."""
    return file.with_name(f"{file.name}.json")


class Tables:
    """A .beton's tables, read when they are wanted; DataError when the file is damaged, unfinished, or holds no images with
    labels."""

    def __init__(self, file: Path) -> None:
        self.file = file
        check_regular(file)
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
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0, IMAGE))
        self._row, self._rows_at, self._image, self._label = row, start, f"f{image}", f"f{label}"

    def _read(self, kind: np.dtype, offset: int, count: int, what: str) -> np.ndarray:
        found = np.fromfile(self.file, kind, count, offset=offset)
        if len(found) < count:
            raise DataError(f"{self.file} is cut off in its {what}; write it again")
        return found

    def rows(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the samples from `start` on: structured array (count,) of `IMAGE`, and labels, int64 (count,)."""
        rows = self._read(self._row, self._rows_at + start * self._row.itemsize, count, "metadata")
        return rows[self._image], rows[self._label]

    def image(self, sample: int) -> np.ndarray:
        """A sample's `IMAGE`."""
        start = sample // _TOGETHER * _TOGETHER
        first, images = self._last
        if first != start:
            images = self.rows(start, min(_TOGETHER, self._count - start))[0]
            self._last = start, images  # samples are asked for in order
        return images[sample - start]

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
        table, wrong = self._allocations, f"{self.file} does not hold all that its tables name; write it again"
        if not len(table):
            raise DataError(wrong)
        rows = np.minimum(np.searchsorted(table["ptr"], places), len(table) - 1)
        found, size = table["size"][rows], np.uint64(self.size)
        there = (table["ptr"][rows] == places) & (places <= size)
        if not (there & (found <= size - np.minimum(places, size))).all():  # sums could overflow
            raise DataError(wrong)
        return found.astype(np.int64)

    def forget_sizes(self) -> None:
        """Free the table of sizes, which only listing needs."""
        self.__dict__.pop("_allocations", None)


class Beton(Source):
    """One split's file. Samples are named by their number in it; raw pixels read as a PPM file."""

    kind, separator = "beton", ":"

    def __init__(self, file: Path, split: str) -> None:
        super().__init__(file.parent, split)
        self.groups, self.path = [file.name], file
        self.tables = Tables(self.path)
        self._classes = self._read_classes()

    def _read_classes(self) -> list[str]:
        file = classes_file(self.path)
        if not mode_of(file):
            return []
        check_regular(file)
        try:
            classes = json.loads(file.read_text(encoding="utf-8"))["classes"]
        except (ValueError, KeyError, TypeError, RecursionError):
            classes = None
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise DataError(f'{file} is damaged; expected {{"classes": [names]}}. Remove it to use numbers as names')
        return classes

    def state(self) -> list[list]:
        stat = self.path.stat()
        return [[self.groups[0], stat.st_size, stat.st_mtime_ns], self._classes]

    def check(self) -> None:
        """Nothing is left to find: the tables say that there are samples."""

    def pieces(self) -> list[Piece]:
        count = len(self.tables)
        return [Piece(0, start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]

    def samples(self, group: int) -> Iterator[Found]:
        return self.listed(Piece(group, 0, len(self.tables)))

    def listed(self, piece: Piece) -> Iterator[Found]:
        assert piece.stop is not None
        for start in range(piece.start, piece.stop, _CHUNK):
            images, labels = self.tables.rows(start, min(_CHUNK, piece.stop - start))
            modes, places = images["mode"], images["data_ptr"]
            sizes = self.tables.sizes(places)
            wrong = np.flatnonzero(modes > RAW)
            if len(wrong):
                raise DataError(
                    f"{self.path}:{start + wrong[0]} is stored in FFCV's mode {modes[wrong[0]]}, not jpg or raw"
                )
            for row, (label, image, size) in enumerate(zip(labels.tolist(), images, sizes.tolist())):
                name = f"{start + row:08}"
                yield Found(name, self._class(label), int(image["data_ptr"]), size + len(_ppm_header(image)))
        if piece.stop == len(self.tables):
            self.tables.forget_sizes()

    def _class(self, label: int) -> str:
        if not self._classes:
            return str(label)
        if not 0 <= label < len(self._classes):
            raise DataError(
                f"{self.path} holds label {label}, but {classes_file(self.path)} names {len(self._classes)} classes"
            )
        return f"{label}\t{self._classes[label]}"

    def file(self, group: int, name: str) -> str:
        return str(self.path)

    def prefix(self, name: str) -> bytes:
        return _ppm_header(self.tables.image(int(name)))

    def confirm(self, name: str, header: Header) -> None:
        if header.flags & Flag.NOT_JPEG and not self.prefix(name):
            raise DataError("it is no JPEG, as its file says")


def _ppm_header(image: np.ndarray) -> bytes:
    """What makes raw pixels a file that any decoder reads; nothing for a JPEG."""
    return b"" if image["mode"] == JPEG else b"P6 %d %d 255\n" % (image["width"], image["height"])
