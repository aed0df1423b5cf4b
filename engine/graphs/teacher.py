"""A teacher inside the training step: its answers for the images that the network learns from, as soft labels."""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.graphs.normalisation import Normalise
from inception.vocabulary.network import Network


class Teacher(nn.Module):
    """A network that answers and does not learn: always in evaluation mode, without gradients, no part of checkpoints.

    It sees the images as its student does, with all that was done to them (arXiv 2106.05237), in its own size and normalised
    as its own training had them.
    """

    columns: Tensor

    def __init__(self, network: Network, resolution: int, columns: Sequence[int], temperature: float, weight: float):
        """resolution: pixels a side that it wants; columns: its outputs in the order of the student's classes; temperature,
        weight: of `distilled`."""
        super().__init__()
        self.network = network
        self.normalise = Normalise(network.mean, network.std)
        self.resolution, self.temperature, self.weight = resolution, temperature, weight
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode, whatever is asked for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """(N, 3, H, W) uint8, or float 0..255 -> logits float32 (N, the student's classes), computed in `dtype`."""
        pixels = self.normalise(images)
        if images.shape[-1] != self.resolution:
            # Normalising is linear, so that it may come first; the size is a constant of the graph.
            pixels = F.interpolate(pixels, size=(self.resolution,) * 2, mode="bilinear", antialias=True)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            logits = self.network(pixels)
        return logits.float()[:, self.columns]

    def distilled(self, loss: Tensor, logits: Tensor, answers: Tensor) -> Tensor:
        """The loss of the labels and that of the teacher's answers together (arXiv 1503.02531, section 2): scalar.

        The latter is the divergence of the two distributions at the temperature, times its square, by which gradients do
        not depend on it.
        """
        softer = F.kl_div(
            F.log_softmax(logits / self.temperature, dim=1),
            F.log_softmax(answers / self.temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * softer
