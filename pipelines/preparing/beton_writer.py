"""Writes FFCV's `.beton` from a dataset: JPEGs byte for byte as they are, so that nothing is lost to a second encoding.

Where each sample goes follows from the dataset's index alone. Workers, threads or MPI ranks, can then write any part at
any time, and the file is the same whoever wrote what.
"""

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.datasets.beton import (
    ALLOCATION,
    FIELD,
    HEADER,
    IMAGE,
    INT_FIELD,
    JPEG,
    RAW,
    RGB_FIELD,
    VERSION,
    classes_file,
)
from pipelines.datasets.dataset import Dataset
from pipelines.datasets.image_headers import SLOW
from pipelines.support.errors import DataError
from pipelines.support.work_sharing import Processes, Team

PAGE_SIZE = 8 << 20  # bytes, FFCV's default; larger only where a sample is
_LARGEST_PAGE = 1 << 31  # FFCV holds page sizes in 32 bits
_RUN = 64 << 20  # bytes of samples that a worker writes at a time
_ROW = np.dtype([("", IMAGE), ("", "<i8")], align=True)  # image, label
_CHUNK = 1 << 16  # samples laid out at a time


class Layout(NamedTuple):
    """Where everything goes. rows: structured array (n,), image and label; sizes: int64 (n,) bytes stored for each;
    end: where the pages end and the table of allocations begins."""

    rows: np.ndarray
    sizes: np.ndarray
    page_size: int
    end: int


def write_beton(samples: Callable[[], Dataset], file: Path, team: Team | None = None) -> int:
    """Write the dataset that `samples()` opens as a .beton with the fields "image" and "label", and its class names
    beside it; returns its size in bytes.

    samples: opens the dataset, in every worker: something that pickles, such as `partial(open_dataset, path, "train")`.
    team: who does the work, by default this process. JPEGs of one or three components are stored as they are; what
    FFCV's decoder cannot read (CMYK, PNG, ...) as upright RGB pixels. DataError when a sample cannot be read; the file
    appears under its name only when it is complete.
    """
    dataset = samples()
    layout = lay_out(dataset)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            _write_tables(stream, layout)
            stream.truncate(layout.end + len(layout.sizes) * ALLOCATION.itemsize)
        tasks = [(samples, temporary, *run) for run in _runs(layout)]
        for _ in (team or Processes(1)).run(write_run, tasks):
            pass
        with temporary.open("r+b") as stream:
            _write_allocations(stream, layout)
            os.fsync(stream.fileno())
        names = classes_file(file)
        names.with_name(f".{names.name}.tmp").write_text(
            json.dumps({"classes": list(dataset.classes)}), encoding="utf-8"
        )
        names.with_name(f".{names.name}.tmp").rename(names)
        temporary.rename(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file.stat().st_size


def lay_out(dataset: Dataset) -> Layout:
    """Place every sample of the dataset, in its order, none across the border of two pages."""
    unreadable = dataset.unreadable()
    if len(unreadable):
        first, more = int(unreadable[0]), len(unreadable) - 1
        raise DataError(
            f"{dataset.name(first)}: {dataset.reason(first)}{f' (and {more} more)' if more else ''}; repair it, or list it "
            "in a quarantine file"
        )
    count = len(dataset)
    rows, sizes = np.zeros(count, _ROW), np.empty(count, np.int64)
    for start in range(0, count, _CHUNK):
        indices = np.arange(start, min(start + _CHUNK, count))
        part = slice(start, start + len(indices))
        rows["f1"][part] = dataset.labels(indices)
        sizes[part] = _describe(rows["f0"][part], dataset, indices)
    page_size = PAGE_SIZE
    while page_size < sizes.max():
        page_size *= 2
    if page_size > _LARGEST_PAGE:
        raise DataError(f"{dataset.name(int(sizes.argmax()))} is too large for FFCV's format; make it smaller first")
    places, end = _places(sizes, page_size, HEADER.itemsize + 2 * FIELD.itemsize + rows.nbytes)
    rows["f0"]["data_ptr"] = places
    return Layout(rows, sizes, page_size, end)


def _describe(images: np.ndarray, dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    """Fill in mode, width and height of some rows; int64 (n,): the bytes that each sample takes."""
    entries, (flags, orientations) = dataset.entries(indices), dataset.flags(indices)
    as_pixels = (flags & SLOW) != 0
    on_its_side = (orientations >= 5) & ~as_pixels  # a JPEG is described as it is stored, pixels as they are displayed
    width, height = entries["width"].astype(np.int64), entries["height"].astype(np.int64)
    images["mode"] = np.where(as_pixels, RAW, JPEG)
    images["width"] = np.where(on_its_side, height, width)
    images["height"] = np.where(on_its_side, width, height)
    return np.where(as_pixels, 3 * width * height, entries["size"].astype(np.int64))


def _places(sizes: np.ndarray, page_size: int, tables: int) -> tuple[np.ndarray, int]:
    """uint64 (n,): where each sample begins; and the end of the last page."""
    places = np.empty(len(sizes), np.uint64)
    at = -(-tables // page_size) * page_size
    for number, size in enumerate(sizes.tolist()):
        left = page_size - at % page_size
        if size > left:
            at += left
        places[number] = at
        at += size
    return places, -(-at // page_size) * page_size


def _header(layout: Layout) -> np.ndarray:
    """Without the place of the allocations, which is written when all else is: readers refuse a file without it."""
    header = np.zeros(1, HEADER)
    header["version"], header["num_fields"], header["page_size"] = VERSION, 2, layout.page_size
    header["num_samples"] = len(layout.rows)
    return header


def _write_tables(stream, layout: Layout) -> None:
    fields = np.zeros(2, FIELD)
    for field, kind, name in zip(fields, (RGB_FIELD, INT_FIELD), (b"image", b"label")):
        field["type_id"] = kind
        field["name"][: len(name)] = np.frombuffer(name, np.uint8)
    for part in (_header(layout), fields, layout.rows):
        stream.write(part.tobytes())


def _write_allocations(stream, layout: Layout) -> None:
    table = np.zeros(len(layout.sizes), ALLOCATION)
    table["sample_id"] = np.arange(len(table))
    table["ptr"], table["size"] = layout.rows["f0"]["data_ptr"], layout.sizes
    stream.seek(layout.end)
    stream.write(table.tobytes())
    stream.flush()
    os.fsync(stream.fileno())  # before the header says that it is there
    header = _header(layout)
    header["alloc_table_ptr"] = layout.end
    stream.seek(0)
    stream.write(header.tobytes())
    stream.flush()


def _runs(layout: Layout) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(first sample, modes, places) of runs of neighbours, about `_RUN` bytes each."""
    images = layout.rows["f0"]
    starts = np.unique(np.searchsorted(np.cumsum(layout.sizes), np.arange(0, layout.sizes.sum(), _RUN), side="right"))
    bounds = [*starts.tolist(), len(images)]
    return [
        (start, images["mode"][start:stop].copy(), images["data_ptr"][start:stop].copy())
        for start, stop in pairwise(bounds)
    ]


def write_run(task: tuple[Callable[[], Dataset], Path, int, np.ndarray, np.ndarray]) -> None:
    """Write some neighbouring samples at their places in a file that has its full size already."""
    samples, file, start, modes, places = task
    dataset = samples()
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for number, (mode, place) in enumerate(zip(modes.tolist(), places.tolist()), start):
            data = (_pixels(dataset, number) if mode == RAW else dataset.read(number)).data
            while len(data):
                written = os.pwrite(descriptor, data, place)
                data, place = data[written:], place + written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pixels(dataset: Dataset, number: int) -> np.ndarray:
    """uint8 (bytes,): the image upright in RGB, row by row."""
    from pipelines.decoding.decode import decode  # brings torch, which copying does without

    try:
        return np.ascontiguousarray(decode(dataset.read(number)).permute(1, 2, 0).numpy()).reshape(-1)
    except DataError as error:
        raise DataError(f"{dataset.name(number)}: {error}; repair it, or list it in a quarantine file") from None
