"""One optimizer step: gradients of the micro-batches, then new weights."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine.distributed.parallelism import Parallelism
from engine.monitoring.phase_clock import PhaseClock
from pipelines import Batch


class TrainStep:
    """One optimizer step: forward and backward over the micro-batches of a global batch, then clipping and update.

    begin(...); accumulate(...) for every micro-batch; update(). `weight` of a number of images is what a micro-batch of so many
    counts; all are equal unless given.
    """

    def __init__(
        self, objective: Callable[..., Any], parallelism: Parallelism, micro_batches: int, clip_norm: float | None,
        weight: Callable[[int], float] | None = None,
    ):  # fmt: skip
        self._objective, self._parallelism = objective, parallelism
        self._micro_batches, self._clip_norm, self._weight = micro_batches, clip_norm, weight
        self.clock = PhaseClock(parallelism.device)
        self._totals: list[Tensor] = []

    def begin(self, seed: int) -> None:
        """Starts a step. `seed` names it on this rank: it fixes dropout, so that a resumed run draws the same masks."""
        # torch.manual_seed also queues calls for every kind of device that might wake up later, at 0.4 ms a time.
        torch.default_generator.manual_seed(seed)
        if self._parallelism.device.type == "cuda":
            torch.cuda.default_generators[self._parallelism.device.index].manual_seed(seed)
        self._totals.clear()

    def accumulate(self, images: Tensor, labels: Tensor, augmentation: dict[str, Tensor] | None = None) -> None:
        """Adds the gradients of one micro-batch; those of the last are exchanged among the ranks."""
        last = len(self._totals) == self._micro_batches - 1
        with contextlib.nullcontext() if last else self._parallelism.without_exchange():
            self.clock.phase("forward")
            loss, right = self._objective(images, labels, augmentation)
            self.clock.phase("backward")
            self._parallelism.backward(self._weighted(loss, len(labels)))
            self.clock.stop()
        totals = torch.stack([loss.detach(), right / len(labels)])
        self._totals.append(totals if self._weight is None else totals * self._weight(len(labels)))

    def _weighted(self, loss: Tensor, images: int) -> Tensor:
        """The loss of a micro-batch as it counts in the step's."""
        if self._weight is not None:
            return loss * self._weight(images)
        return loss / self._micro_batches if self._micro_batches > 1 else loss

    def update(self, measure: bool = False) -> tuple[Tensor, Tensor | None]:
        """Moves the weights. Returns float32 (2,), mean loss and share of right answers of this rank's images, and the
        norm of the gradient before clipping if it was needed or asked for; both stay on the device. Of uneven shares, the means
        are weighted, so that their mean over the ranks is that of the global batch."""
        self.clock.phase("optimizer")
        norm = self._parallelism.update(self._clip_norm, measure)
        self.clock.stop()
        totals = self._totals
        if self._weight is not None:
            return torch.stack(totals).sum(dim=0), norm
        return (totals[0] if len(totals) == 1 else torch.stack(totals).mean(dim=0)), norm

    def compile_for(self, batch: Batch) -> None:
        """Runs forward and backward once on images like those of `batch`, so that torch.compile has done its work, and
        forgets the gradients."""
        self.begin(seed=0)
        for _ in range(self._micro_batches):
            self.accumulate(batch.images, batch.labels, batch.augmentation)
        self._parallelism.discard()
