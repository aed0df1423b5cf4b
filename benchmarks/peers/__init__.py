"""What people would use instead, each in its best documented setting, doing the same work as our own code.

A data peer is a module with `SETTING`, a sentence that says how it is set up, and `passes(job)`, which prepares it and
returns a callable: every call is a fresh pass over the dataset, an iterable of uint8 image batches. A package that is
missing raises ImportError, and one that needs a GPU RuntimeError where there is none; the tables show both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from torch import Tensor

Passes = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class DataJob:
    """Training batches to be made: random crops of `scale` (shares of the area) and `ratio` (width / height) resized to
    `resolution`, half of them mirrored, as uint8.

    `folder` has train/<class>/*.jpg; `work` is a folder for files that a peer's own format needs, and `quality` that of its
    JPEGs where it encodes them anew.
    """

    folder: Path
    work: Path
    batch_size: int
    resolution: int
    workers: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    quality: int = 90


DATA_PEERS = {
    "torchvision": "torchvision_data",
    "torchvision_cuda": "torchvision_cuda_data",
    "timm": "timm_data",
    "webdataset": "webdataset_data",
    "ffcv": "ffcv_data",
    "dali": "dali_data",
}


def data_peer(name: str) -> ModuleType:
    """The module of a data peer."""
    return import_module(f"benchmarks.peers.{DATA_PEERS[name]}")
