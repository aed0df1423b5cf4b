"""One training step and one evaluation step: from uint8 images to a loss, to new weights, to counts of right answers.

`Objective` and `Scorer` are the graphs that torch.compile sees: normalisation, network and loss in one piece.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config.options import LossConfig
from engine.distributed.strategy import Strategy
from engine.graphs.device_augmentation import Augment, mixed_cross_entropy
from engine.monitoring.profiling import PhaseClock
from inception.vocabulary.network import Network
from pipelines import Batch


class Normalise(nn.Module):
    """uint8 images to the numbers a network was designed for: (x / 255 - mean) / std, on the device."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        deviation = torch.tensor(std).view(1, -1, 1, 1)
        self.register_buffer("scale", 1.0 / (255.0 * deviation), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(1, -1, 1, 1) / deviation, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> the same shape and memory format in float32."""
        return torch.addcmul(self.shift, images.float(), self.scale)


class Objective(nn.Module):
    """The training loss: cross-entropy with label smoothing, and that of each auxiliary classifier times its weight.

    Sources: label smoothing, Inception-v3 paper (arXiv 1512.00567) section 7; auxiliary losses, GoogLeNet paper
    (arXiv 1409.4842) section 5.
    """

    def __init__(self, network: Network, auxiliary_weights: Sequence[float], label_smoothing: float, bf16: bool):
        super().__init__()
        self.network = network
        self.normalise = Normalise(network.mean, network.std)
        self.auxiliary_weights = tuple(auxiliary_weights)
        self.label_smoothing = label_smoothing
        self.bf16 = bf16
        self.augment = Augment()

    def forward(
        self, images: Tensor, labels: Tensor, augmentation: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) uint8, labels (N,) int64 and a batch's augmentation -> mean loss (scalar), right answers
        (scalar int64)."""
        if augmentation is not None:
            images = self.augment(images, augmentation).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            output = self.network(self.normalise(images))
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = self._cross_entropy(logits, labels, augmentation)
        for weight, extra in zip(self.auxiliary_weights, auxiliary):
            loss = loss + weight * self._cross_entropy(extra, labels, augmentation)
        return loss, (logits.detach().argmax(dim=1) == labels).sum()

    def _cross_entropy(self, logits: Tensor, labels: Tensor, augmentation: dict[str, Tensor] | None) -> Tensor:
        if augmentation is None:
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        return mixed_cross_entropy(logits.float(), labels, augmentation, self.label_smoothing)


def build_objective(network: Network, options: LossConfig, bf16: bool) -> Objective:
    """The objective that `options` describe; without a weight there, auxiliary classifiers count as in the paper."""
    weights = network.auxiliary_weights
    if options.auxiliary_weight is not None:
        weights = (options.auxiliary_weight,) * len(weights)
    return Objective(network, weights, options.label_smoothing, bf16)


class Scorer(nn.Module):
    """Counts of right answers and the summed loss of a batch, in evaluation mode."""

    def __init__(self, network: nn.Module, bf16: bool, flip: bool = False):
        super().__init__()
        self.network = network
        self.normalise = Normalise(network.mean, network.std)  # type: ignore[arg-type]
        self.bf16 = bf16
        self.flip = flip

    def probabilities(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, classes) float32; the mean over the image and its mirror image with `flip`."""
        pixels = self.normalise(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            result = self.network(pixels).float().softmax(dim=1)
            if self.flip:
                result = (result + self.network(pixels.flip(3)).float().softmax(dim=1)) / 2
        return result

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, 3, H, W) uint8, labels (N,) int64 with -1 for slots that do not count -> float64 (4,): images
        counted, right at first guess, right within five guesses, summed cross-entropy; and of every slot the class
        guessed, int64 (N,), and its probability, float32 (N,)."""
        probabilities = self.probabilities(images)
        counts = labels >= 0
        classes = probabilities.shape[1]
        best = probabilities.topk(min(5, classes), dim=1)
        guesses = best.indices
        right = (guesses == labels[:, None]) & counts[:, None]
        # Probabilities of 0 in float32 would make the loss infinite; the smallest normal number bounds it at 87.
        log = probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
        loss = -log.gather(1, labels.clamp_min(0)[:, None])[:, 0] * counts
        values = (counts.sum(), right[:, 0].sum(), right.sum(), loss.sum(dtype=torch.float64))
        return torch.stack([value.double() for value in values]), guesses[:, 0], best.values[:, 0]


class TrainStep:
    """One optimizer step: forward and backward over the micro-batches of a global batch, then clipping and update.

    begin(...); accumulate(...) for every micro-batch; update().
    """

    def __init__(self, objective: Callable[..., Any], strategy: Strategy, micro_batches: int, clip_norm: float | None):
        self._objective, self._strategy = objective, strategy
        self._micro_batches, self._clip_norm = micro_batches, clip_norm
        self.clock = PhaseClock(strategy.device)
        self._totals: list[Tensor] = []

    def begin(self, seed: int) -> None:
        """Starts a step. `seed` names it on this rank: it fixes dropout, so that a resumed run draws the same masks."""
        # torch.manual_seed also queues calls for every kind of device that might wake up later, at 0.4 ms a time.
        torch.default_generator.manual_seed(seed)
        if self._strategy.device.type == "cuda":
            torch.cuda.default_generators[self._strategy.device.index].manual_seed(seed)
        self._totals.clear()

    def accumulate(self, images: Tensor, labels: Tensor, augmentation: dict[str, Tensor] | None = None) -> None:
        """Adds the gradients of one micro-batch; those of the last are exchanged among the ranks."""
        last = len(self._totals) == self._micro_batches - 1
        with contextlib.nullcontext() if last else self._strategy.without_exchange():
            self.clock.phase("forward")
            loss, right = self._objective(images, labels, augmentation)
            self.clock.phase("backward")
            self._strategy.backward(loss / self._micro_batches if self._micro_batches > 1 else loss)
            self.clock.stop()
        self._totals.append(torch.stack([loss.detach(), right / len(labels)]))

    def update(self, measure: bool = False) -> tuple[Tensor, Tensor | None]:
        """Moves the weights. Returns float32 (2,), mean loss and share of right answers of this rank's images, and the
        norm of the gradient before clipping if it was needed or asked for; both stay on the device."""
        self.clock.phase("optimizer")
        norm = self._strategy.update(self._clip_norm, measure)
        self.clock.stop()
        totals = self._totals
        return (totals[0] if len(totals) == 1 else torch.stack(totals).mean(dim=0)), norm

    def compile_for(self, batch: Batch) -> None:
        """Runs forward and backward once on images like those of `batch`, so that torch.compile has done its work, and
        forgets the gradients."""
        self.begin(seed=0)
        for _ in range(self._micro_batches):
            self.accumulate(batch.images, batch.labels, batch.augmentation)
        self._strategy.discard()
