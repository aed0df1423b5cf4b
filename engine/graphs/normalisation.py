"""uint8 images to what networks read."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
