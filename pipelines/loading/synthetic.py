"""The backend that reads nothing: random images made once on the device, with the plan's labels and indices.

It measures what training reaches when data costs nothing.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.loading.batch import Batch, to_device
from pipelines.loading.loader import Loader
from pipelines.loading.task import Failure, Task

_NO_BOXES, _NO_FLIPS = np.zeros((0, 4), np.int32), np.zeros(0, np.bool_)


class SyntheticLoader(Loader):
    """Every batch shows the same random images, which must not be written to."""

    backend = "synthetic"
    _images: torch.Tensor | None = None

    def _task(
        self,
        epoch: int,
        positions: NDArray[np.int64],
        indices: NDArray[np.int64],
        labels: NDArray[np.int64],
        seen: int,
    ) -> Task:
        # Without the crops that nobody will cut: working them out costs more than all the rest.
        boxes, flips = _NO_BOXES, _NO_FLIPS
        return Task(epoch, positions, indices, labels, boxes, boxes, flips, flips, self._resolution, seen, {})

    def _submit(self, task: Task) -> None:
        return None

    def _collect(self, task: Task, handle: None) -> tuple[Batch, list[Failure]]:
        if self._images is None or self._images.shape[-1] != task.resolution:
            self._images = self._made(task.resolution)
        return Batch(
            self._images[: len(task)],
            to_device(torch.from_numpy(task.labels), self.device),
            torch.from_numpy(task.indices),
        ), []

    def _made(self, size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (self._options.batch_size, size, size, 3)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return images.to(self.device).permute(0, 3, 1, 2)
