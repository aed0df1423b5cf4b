"""The backend that reads nothing: random images made once on the device, with the plan's labels and indices.

It measures what training reaches when data costs nothing.
"""

import torch

from pipelines.batch import Batch
from pipelines.loader import Failure, Loader, Task


class SyntheticLoader(Loader):
    """Every batch shows the same random images, which must not be written to."""

    backend = "synthetic"
    _images: torch.Tensor | None = None

    def _submit(self, task: Task) -> None:
        return None

    def _collect(self, task: Task, handle: None) -> tuple[Batch, list[Failure]]:
        if self._images is None or self._images.shape[-1] != task.resolution:
            self._images = self._made(task.resolution)
        labels = torch.from_numpy(task.labels).to(self.device)
        return Batch(self._images[: len(task)], labels, torch.from_numpy(task.indices)), []

    def _made(self, size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (self._options.batch_size, size, size, 3)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return images.to(self.device).permute(0, 3, 1, 2)
