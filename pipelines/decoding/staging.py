"""What of a batch of planes crosses to a GPU that resizes them: the rows that its boxes show, in one buffer and one copy.

A buffer begins with a table of one entry a sample, and behind it lie the rows of luma and chroma that each box shows, read from
their files by the compiled decoder (fast_stage.h). `resize_kernel.py` makes squares of them.
"""

import ctypes

import numpy as np
import torch
from numpy.typing import NDArray

# The C's `staged`: where a sample's rows lie, in units of 16 bytes (below 0: nowhere); the picture's columns, the pixels that one
# of chroma covers (0: none), its rows that are there; the box and what is made of it, as in `fast_decode.ITEM`.
ENTRY = np.dtype([
    (name, "<i4") for name in (
        "place", "columns", "across", "down", "first", "end", "left", "top", "width", "height", "whole_across", "whole_down",
        "x", "y", "bicubic", "flip",
    )
])  # fmt: skip
UNIT = 16  # bytes


class Staging:
    """The buffer of n samples, which several threads fill.

    items: structured array (n,) of `fast_decode.ITEM`, of which the boxes and the sizes in bytes are looked at; sizes: int32
    (n, 2), width and height of each picture; side: that of the squares. buffer: uint8 (bytes,) on the host; table: structured
    array (n,) of `ENTRY`, at its beginning.
    """

    def __init__(
        self, compiled: ctypes.CDLL, items: np.ndarray, sizes: NDArray[np.int32], side: int, *, pinned: bool = False
    ) -> None:
        self._compiled, self._side = compiled, side
        count, needs = len(items), np.empty(len(items), np.uint64)
        sizes = np.ascontiguousarray(sizes, np.int32)
        compiled.stage_needs(items.ctypes.data, count, side, sizes.ctypes.data, needs.ctypes.data)
        self.places = np.full(count + 1, count * ENTRY.itemsize, np.uint64)  # in bytes
        self.places[1:] += np.cumsum((needs + np.uint64(UNIT - 1)) // np.uint64(UNIT) * np.uint64(UNIT))
        self.buffer = torch.empty(int(self.places[-1]), dtype=torch.uint8, pin_memory=pinned)
        self.table = self.buffer.numpy()[: count * ENTRY.itemsize].view(ENTRY)

    def read(self, items: np.ndarray, start: int = 0) -> NDArray[np.bool_]:
        """Read the rows of the samples from `start` on, as many as there are `items`, whose status changes: bool, which are
        there. The others are no planes, are not as they were indexed, or cannot be read."""
        self._compiled.stage_items(
            items.ctypes.data, len(items), self._side, self.places[start:].ctypes.data, self.buffer.data_ptr(),
            self.table[start:].ctypes.data,
        )  # fmt: skip
        return self.table["place"][start : start + len(items)] >= 0
