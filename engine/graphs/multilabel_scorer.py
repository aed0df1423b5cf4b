"""The evaluation step of images with several labels, as one graph: each class has a probability of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.graphs.scorer import Scorer


class MultilabelScorer(Scorer):
    """As `Scorer`, where labels are rows of `combinations`, uint8 (combinations, classes), which say the classes of each; None
    where only probabilities are asked for."""

    combinations: Tensor | None

    def __init__(self, network: nn.Module, dtype: torch.dtype, flip: bool = False, combinations: Tensor | None = None):
        super().__init__(network, dtype, flip)
        self.register_buffer("combinations", combinations, persistent=False)

    def probabilities(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, classes) float32, each from 0 to 1; with `flip`, the mean over the image and its mirror
        image."""
        pixels = self.normalise(images)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            result = self.network(pixels).float().sigmoid()
            if self.flip:
                result = (result + self.network(pixels.flip(3)).float().sigmoid()) / 2
        return result

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """As `Scorer.forward`: right at first guess is an image whose likeliest class is one of its own, right within five
        guesses one of which a class is among them; the loss is binary cross-entropy, the mean over the classes. The last result
        is the probability of every class, float32 (N, classes)."""
        assert self.combinations is not None
        probabilities = self.probabilities(images)
        counts = labels >= 0
        wanted = self.combinations[labels.clamp_min(0)].float()
        guesses = probabilities.topk(min(5, probabilities.shape[1]), dim=1).indices
        right = wanted.gather(1, guesses) * counts[:, None]
        loss = F.binary_cross_entropy(probabilities, wanted, reduction="none").mean(1) * counts
        values = [counts.sum(), right[:, 0].sum(), right.amax(1).sum(), loss.sum(dtype=torch.float64)]
        return torch.stack([value.double() for value in values]), guesses[:, 0], probabilities
