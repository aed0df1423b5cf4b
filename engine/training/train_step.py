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

    begin(...); accumulate(...) for every micro-batch; update().
    """

    def __init__(
        self, objective: Callable[..., Any], parallelism: Parallelism, micro_batches: int, clip_norm: float | None
    ):
        self._objective, self._parallelism = objective, parallelism
        self._micro_batches, self._clip_norm = micro_batches, clip_norm
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
            self._parallelism.backward(loss / self._micro_batches if self._micro_batches > 1 else loss)
            self.clock.stop()
        self._totals.append(torch.stack([loss.detach(), right / len(labels)]))

    def update(self, measure: bool = False) -> tuple[Tensor, Tensor | None]:
        """Moves the weights. Returns float32 (2,), mean loss and share of right answers of this rank's images, and the
        norm of the gradient before clipping if it was needed or asked for; both stay on the device."""
        self.clock.phase("optimizer")
        norm = self._parallelism.update(self._clip_norm, measure)
        self.clock.stop()
        totals = self._totals
        return (totals[0] if len(totals) == 1 else torch.stack(totals).mean(dim=0)), norm

    def compile_for(self, batch: Batch) -> None:
        """Runs forward and backward once on images like those of `batch`, so that torch.compile has done its work, and
        forgets the gradients."""
        self.begin(seed=0)
        for _ in range(self._micro_batches):
            self.accumulate(batch.images, batch.labels, batch.augmentation)
        self._parallelism.discard()
