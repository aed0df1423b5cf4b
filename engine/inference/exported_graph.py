"""The function that an exported file holds: a network, with the preprocessing and in the precision that are asked for."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from engine.graphs.normalisation import Normalise
from inception import Network


class ExportedGraph(nn.Module):
    """Images (N, channels, size, size) -> logits (N, classes) in float32, computed by a copy of `network` in `dtype`.

    size: pixels a side; pixels: images are uint8, and are normalised here, else they are normalised float32; batch: images at a
    time, 0 for any number. `takes` is the name of the images' dtype.
    """

    def __init__(
        self, network: Network, size: int, pixels: bool = False, dtype: torch.dtype = torch.float32, batch: int = 0
    ):
        super().__init__()
        self.size, self.channels, self.batch, self.dtype = size, network.in_channels, batch, dtype
        self.normalise = Normalise(network.mean, network.std)
        self.takes = "uint8" if pixels else "float32"
        self.network = network if dtype == torch.float32 else copy.deepcopy(network).to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        """See above."""
        return self.network(self.normalised(images).to(self.dtype)).float()

    def normalised(self, images: Tensor) -> Tensor:
        """The images as the network reads them."""
        return self.normalise(images) if self.takes == "uint8" else images

    def example(self) -> Tensor:
        """Images to trace with; two for any number, since a batch of one would be taken for a constant."""
        return torch.zeros(self.batch or 2, self.channels, self.size, self.size, dtype=getattr(torch, self.takes))

    def random_images(self) -> Tensor:
        """Images to compare with, the same every time: a batch, or three for any number."""
        shape, generator = (self.batch or 3, self.channels, self.size, self.size), torch.Generator().manual_seed(0)
        if self.takes == "uint8":
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return torch.randn(shape, generator=generator)

    def dynamic_shapes(self) -> Any:
        """What torch.export is told of the images' shape."""
        return None if self.batch else ({0: torch.export.Dim("batch")},)
