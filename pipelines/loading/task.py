"""What a loader is asked to do: how it works, one micro-batch as the plan wants it, and a sample that could not be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Options:
    """How a loader was asked to work; see `pipelines.build_loader`. skip: bad samples are skipped, not raised;
    settings: the backend's own."""

    device: torch.device
    batch_size: int
    resolution: int
    rank: int
    world_size: int
    workers: int
    prefetch: int
    skip: bool
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One micro-batch as the plan wants it: n samples by position, and what is to be done with each.

    positions: places in the epoch's order; indices: samples; boxes: int32 (n, 4) left, top, width, height in displayed
    pixels; views: int32 (n, 4), the plan's of them at this resolution; flips, bicubic: bool (n,); bad: slots whose samples
    the index knows to be unreadable, with names and reasons; seen: the samples of the run that are complete once this
    micro-batch is handed out.
    """

    epoch: int
    positions: NDArray[np.int64]
    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.int32]
    views: NDArray[np.int32]
    flips: NDArray[np.bool_]
    bicubic: NDArray[np.bool_]
    resolution: int
    seen: int
    bad: dict[int, "Failure"]

    def __len__(self) -> int:
        return len(self.indices)


class Failure(NamedTuple):
    """A sample that could not be read."""

    name: str
    reason: str
