"""A task as the compiled decoder takes it."""

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.dataset import Dataset
from pipelines.datasets.files import Located
from pipelines.datasets.image_headers import Flag, cut_by_c
from pipelines.decoding import fast_decode
from pipelines.loading.task import Task


def wanted_of(dataset: Dataset, task: Task, slots: slice | NDArray[np.int64]) -> np.ndarray:
    """What the compiled decoder is to do of a task, structured array (n,) of `fast_decode.ITEM`, but not where its bytes lie."""
    indices = task.indices[slots]
    entries, (flags, orientations) = dataset.entries(indices), dataset.flags(indices)
    items = np.zeros(len(indices), fast_decode.ITEM)
    for name in ("place", "size", "modified"):
        items[name] = entries[name]
    items["left"], items["top"], items["width"], items["height"] = task.boxes[slots].T
    items["across"], items["down"], items["x"], items["y"] = task.views[slots].T
    items["flip"], items["bicubic"] = task.flips[slots], task.bicubic[slots]
    items["orientation"] = orientations
    items["planes"] = flags & int(Flag.PLANES) != 0
    items["file"] = np.where(cut_by_c(flags), 0, -1)
    return items


def items_of(dataset: Dataset, task: Task, slots: slice | NDArray[np.int64]) -> tuple[np.ndarray, Located]:
    """The same with the files, or paths, that the compiled decoder reads from; and what keeps them there, as long as it must."""
    items, located = wanted_of(dataset, task, slots), dataset.located(task.indices[slots])
    left_alone = items["file"] < 0
    items["file"] = np.where(left_alone, -1, located.files)
    if located.starts is not None:
        places = np.frombuffer(located.paths, np.uint8).ctypes.data + located.starts
        items["path"] = np.where(left_alone, 0, places)
    return items, located
