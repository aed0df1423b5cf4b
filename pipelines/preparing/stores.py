"""The stores: how a prepared dataset keeps its images, as they come or rewritten so that loading costs less; a module each.

Whatever the store, training gets the same pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.datasets import y4m
from pipelines.datasets.image_headers import Header
from pipelines.decoding import jpeg_planes
from pipelines.preparing import windows
from pipelines.preparing.rewriting import Rewritten

JPEG = "jpeg"


@dataclass(frozen=True)
class Store:
    """rewrite: from an encoded image, uint8 (n,), and its header, to what is stored of it; nothing for images as they are.
    forms: what a preparation can make of it. missing: what rewriting needs and this machine lacks, a line; or nothing."""

    forms: tuple[str, ...]
    rewrite: Callable[[np.ndarray, Header], Rewritten] | None = None
    missing: Callable[[], str] = str


def _as_planes(data: np.ndarray, header: Header) -> Rewritten:
    made, why = jpeg_planes.planes(data, header)
    return Rewritten(made, why, y4m.EXTENSION if made else "")


STORES = {
    JPEG: Store(("folder", "shards", "beton")),
    "windows": Store(("folder", "shards", "beton"), windows.rewrite, windows.missing),
    "planes": Store(("folder", "shards"), _as_planes, jpeg_planes.missing),
}
