"""Images padded with channels of zeros inside the first convolution: three channels are an awkward width for hardware that
moves and multiplies four or eight numbers at a time.

The weight is padded too, in the forward pass: the parameter keeps its three channels, so that state dicts, optimizers and
gradients do not notice, and the zeros add nothing to any sum.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from inception.vocabulary.errors import NetworkError


class PaddedConv2d(nn.Conv2d):
    """A convolution that pads its input and weight with zeros to `padded_channels` channels:
    (N, in_channels, H, W) -> (N, out_channels, H', W')."""

    padded_channels: int

    def forward(self, x: Tensor) -> Tensor:
        extra = (0, 0, 0, 0, 0, self.padded_channels - self.in_channels)
        return self._conv_forward(F.pad(x, extra), F.pad(self.weight, extra), self.bias)


def pad_images(network: nn.Module, channels: int) -> None:
    """Make the first convolution of `network` pad its input to `channels` channels, in place.

    Raises NetworkError when it has as many already, or more.
    """
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    if channels <= first.in_channels:
        raise NetworkError(
            f"pad_channels must exceed the {first.in_channels} channels of the images, not be {channels}"
        )
    first.__class__ = PaddedConv2d
    first.padded_channels = channels  # type: ignore[assignment]
