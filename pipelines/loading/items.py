"""A task as the compiled decoder takes it."""

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.dataset import Dataset
from pipelines.datasets.files import Located
from pipelines.datasets.image_headers import Flag, cut_by_c
from pipelines.decoding import fast_decode
from pipelines.loading.task import Task


def items_of(dataset: Dataset, task: Task, slots: slice | NDArray[np.int64]) -> tuple[np.ndarray, Located]:
    """What the compiled decoder is to do of a task, structured array (n,) of `fast_decode.ITEM`, and what it reads from, which
    must be there as long."""
    indices = task.indices[slots]
    entries, (flags, orientations) = dataset.entries(indices), dataset.flags(indices)
    items = np.zeros(len(indices), fast_decode.ITEM)
    for name in ("place", "size", "modified"):
        items[name] = entries[name]
    items["left"], items["top"], items["width"], items["height"] = task.boxes[slots].T
    items["across"], items["down"], items["x"], items["y"] = task.views[slots].T
    items["flip"], items["bicubic"] = task.flips[slots], task.bicubic[slots]
    located = dataset.located(indices)
    items["file"] = located.files
    if located.starts is not None:
        items["path"] = np.frombuffer(located.paths, np.uint8).ctypes.data + located.starts
    items["orientation"] = orientations
    items["planes"] = flags & int(Flag.PLANES) != 0
    odd = ~cut_by_c(flags)
    items["file"][odd], items["path"][odd] = -1, 0
    return items, located
