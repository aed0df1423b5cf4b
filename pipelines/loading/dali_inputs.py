"""What DALI is fed: each sample's bytes, or its file's path, and its box, as far as restart markers allow cut out before."""

import ctypes
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
import nvidia.dali
from numpy.typing import NDArray
from nvidia.dali import Pipeline

from pipelines.datasets.dataset import Dataset
from pipelines.decoding import fast_decode
from pipelines.loading.items import items_of
from pipelines.loading.task import Task

# DALI makes its types when it is imported: no type checker knows them.
types: Any = nvidia.dali.types
_TOGETHER = 16  # samples that a thread reads
_CUBIC, _TRIANGULAR = int(types.INTERP_CUBIC), int(types.INTERP_TRIANGULAR)


class Inputs(NamedTuple):
    """Samples that could be read. slots: int64 (n,), theirs in the task; encoded: uint8 (bytes,) each, the image or its path;
    boxes: int32 (n, 4), in that image."""

    slots: NDArray[np.int64]
    encoded: list[np.ndarray]
    boxes: NDArray[np.int32]


def inputs_of(
    dataset: Dataset, task: Task, slots: NDArray[np.int64], cutter: ctypes.CDLL | None, readers: Executor
) -> Inputs:
    """Of those slots of a task; cutter: the compiled decoder, which reads the files and cuts JPEGs down to what their boxes
    show, where that is wanted; readers: threads that do. What changed since it was indexed is left out."""
    if cutter is None:
        read = dataset.encoded(task.indices[slots])
        there = np.array([data is not None for data in read], np.bool_)
        encoded = [np.frombuffer(data, np.uint8) for data in read if data is not None]
        return Inputs(slots[there], encoded, task.boxes[slots[there]])

    def read_and_cut(part: NDArray[np.int64]) -> tuple[np.ndarray, list[NDArray[np.uint8]]]:
        items, located = items_of(dataset, task, part)
        encoded = fast_decode.cut_items(cutter, items, task.resolution)
        del located  # what kept the files open
        return items, encoded

    parts = [slots[at : at + _TOGETHER] for at in range(0, len(slots), _TOGETHER)] or [slots]
    found = list(readers.map(read_and_cut, parts))
    items, cut = np.concatenate([one for one, _ in found]), [data for _, several in found for data in several]
    there = items["size"] > 0
    boxes = np.stack([items[name] for name in ("left", "top", "width", "height")], axis=1)
    return Inputs(slots[there], [data for data in cut if len(data)], boxes[there])


def feed(
    pipeline: Pipeline,
    encoded: list[np.ndarray],
    boxes: np.ndarray,
    views: np.ndarray,
    flips: np.ndarray,
    bicubic: np.ndarray,
    size: int,
) -> None:
    """One task's inputs: encoded bytes or paths, boxes and views int32 (n, 4), flips and bicubic bool (n,), and the side of its
    images. Decoded is what the square shows of a box and its filter sees around that; `begin` and `end` are the square's rows
    and columns in it."""
    scale = boxes[:, 2:] / views[:, :2]
    around = np.where(bicubic, 2, 1)[:, None] * np.maximum(scale, 1)
    begin, end = views[:, 2:] * scale, (views[:, 2:] + size) * scale
    first = np.maximum(np.floor(begin - around), 0).astype(np.int32)
    last = np.minimum(np.ceil(end + around), boxes[:, 2:]).astype(np.int32)
    pipeline.feed_input("encoded", encoded)
    pipeline.feed_input("start", np.ascontiguousarray(boxes[:, :2] + first))
    pipeline.feed_input("shape", np.ascontiguousarray(last - first))
    for name, place in (("begin", begin), ("end", end)):
        pipeline.feed_input(name, np.ascontiguousarray((place - first)[:, ::-1], np.float32))
    pipeline.feed_input("flip", flips.astype(np.int32))
    pipeline.feed_input("size", np.full((len(encoded), 2), size, np.int32))
    pipeline.feed_input("filter", np.where(bicubic, _CUBIC, _TRIANGULAR).astype(np.int32))
