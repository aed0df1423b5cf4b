"""One training step's forward pass as one graph: from uint8 images to the loss."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config.options import LossConfig
from engine.graphs.criterion import Criterion
from engine.graphs.device_augmentation import Augment, mixed_cross_entropy
from engine.graphs.normalisation import Normalise
from engine.graphs.teacher import Teacher
from inception.vocabulary.network import Network


class Objective(nn.Module):
    """The training loss: cross-entropy with label smoothing, or another criterion, and that of each auxiliary classifier times
    its weight.

    Sources: label smoothing, Inception-v3 paper (arXiv 1512.00567) section 7; auxiliary losses, GoogLeNet paper
    (arXiv 1409.4842) section 5. The network computes in `dtype`, the loss in float32.
    """

    def __init__(
        self,
        network: Network,
        auxiliary_weights: Sequence[float],
        label_smoothing: float,
        dtype: torch.dtype,
        criterion: Criterion | None = None,
        teacher: Teacher | None = None,
    ):
        """criterion: another loss than cross-entropy; teacher: whose answers count beside the labels, for the classifier."""
        super().__init__()
        self.network = network
        self.normalise = Normalise(network.mean, network.std)
        self.auxiliary_weights = tuple(auxiliary_weights)
        self.label_smoothing = label_smoothing
        self.dtype = dtype
        self.augment = Augment()
        self.criterion, self.teacher = criterion, teacher

    def forward(
        self, images: Tensor, labels: Tensor, augmentation: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) uint8, labels (N,) int64 and a batch's augmentation -> mean loss (scalar), right answers
        (scalar int64)."""
        if augmentation is not None:
            images = self.augment(images, augmentation).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self.network(self.normalise(images))
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = self._loss(logits, labels, augmentation)
        if self.teacher is not None:
            loss = self.teacher.distilled(loss, logits.float(), self.teacher(images, self.dtype))
        for weight, extra in zip(self.auxiliary_weights, auxiliary):
            loss = loss + weight * self._loss(extra, labels, augmentation)
        if self.criterion is not None:
            return loss, self.criterion.right(logits.detach(), labels)
        return loss, (logits.detach().argmax(dim=1) == labels).sum()

    def _loss(self, logits: Tensor, labels: Tensor, augmentation: dict[str, Tensor] | None) -> Tensor:
        if self.criterion is not None:
            return self.criterion(logits.float(), labels, augmentation)
        if augmentation is None:
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        return mixed_cross_entropy(logits.float(), labels, augmentation, self.label_smoothing)


def build_objective(
    network: Network,
    options: LossConfig,
    dtype: torch.dtype,
    criterion: Criterion | None = None,
    teacher: Teacher | None = None,
) -> Objective:
    """The objective that `options` describe; without a weight there, auxiliary classifiers count as in the paper."""
    weights = network.auxiliary_weights
    if options.auxiliary_weight is not None:
        weights = (options.auxiliary_weight,) * len(weights)
    return Objective(network, weights, options.label_smoothing, dtype, criterion, teacher)
