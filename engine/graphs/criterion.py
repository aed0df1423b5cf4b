"""Losses beside plain cross-entropy, of every image by itself: weighted classes, and every class as a question of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.graphs.device_augmentation import partner


class Criterion(nn.Module):
    """Cross-entropy or binary cross-entropy, with weights of classes.

    The mean over images does not divide by their weights, so that micro-batches and ranks add up to the same whatever their
    number. Binary cross-entropy is the mean over the classes (arXiv 2110.00476, section 2.2, has it for ImageNet).
    """

    class_weights: Tensor | None
    targets: Tensor | None

    def __init__(
        self,
        binary: bool,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        targets: Tensor | None = None,
    ):
        """class_weights: float32 (classes,). targets: uint8 (combinations, classes), which classes each label stands for where
        images have several; a class's weight is then that of the images that have it."""
        super().__init__()
        self.binary, self.label_smoothing = binary, label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("targets", targets, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, augmentation: dict[str, Tensor] | None) -> Tensor:
        """The mean loss (scalar) of logits (N, classes) float32 against labels (N,), shared with each partner's where pixels
        were mixed."""
        own = self._of_each(logits, labels)
        if augmentation is None or "label_weight" not in augmentation:
            return own.mean()
        other = self._of_each(logits, partner(labels))
        return (other + augmentation["label_weight"] * (own - other)).mean()

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How many first guesses are right, or one of several labels: int64, a scalar."""
        guesses = logits.argmax(dim=1)
        if self.targets is None:
            return (guesses == labels).sum()
        return self.targets[labels].gather(1, guesses[:, None]).sum(dtype=torch.int64)

    def _of_each(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.targets is not None:
            wanted = self.targets[labels].to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none", pos_weight=self.class_weights)
            return losses.mean(1)
        if self.binary:
            spread = self.label_smoothing / logits.shape[1]
            wanted = torch.full_like(logits, spread).scatter(1, labels[:, None], 1 - self.label_smoothing + spread)
            losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
        else:
            losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        return losses if self.class_weights is None else losses * self.class_weights[labels]
