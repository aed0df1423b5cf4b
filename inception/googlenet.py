"""GoogLeNet, the first Inception: "Going Deeper with Convolutions" (arXiv 1409.4842).

Table 1 and Figures 2(b) and 3. With batch normalisation (the default) this is the network whose weights torchvision
published: 3x3 in place of the 5x5 convolutions and no response normalisation. Without (`batch_norm=False`) it is the
paper's. Shapes are height x width x channels for images of 224 x 224.
"""

from dataclasses import dataclass

from torch import nn

from inception.vocabulary.layers import Layer, Style, branches, conv, max_pool, response_norm
from inception.vocabulary.modules import GridHead
from inception.vocabulary.network import Design


def stem(batch_norm: bool) -> Layer:
    """Table 1, first four rows: 224 x 224 x 3 -> 28 x 28 x 192."""
    first, second = conv(64, 7, stride=2) >> max_pool(3, stride=2, ceil=True), conv(64, 1) >> conv(192, 3)
    if not batch_norm:
        first, second = first >> response_norm(), second >> response_norm()
    return first >> second >> max_pool(3, stride=2, ceil=True)


@dataclass(frozen=True)
class GoogLeNetHead:
    """Section 5: an auxiliary classifier, 14 x 14 x (512, 528) -> 4 x 4 x 128 -> 1024 -> classes.

    The average pooling to 4 x 4 adapts to the grid, as in the released weights, so that any image size works.
    """

    def build(self, channels: int, num_classes: int, style: Style) -> nn.Module:
        unit, out = conv(128, 1).build(channels, style)
        return GridHead(unit, out, grid=4, hidden=style.channels(1024), dropout=0.7, num_classes=num_classes)


def googlenet(batch_norm: bool = True) -> Design:
    """GoogLeNet of 1409.4842: 6,624,904 parameters with batch normalisation, 6,998,552 without, 1,000 classes."""
    wide = 3 if batch_norm else 5

    def inception(one: int, reduce3: int, three: int, reduce5: int, five: int, pooled: int) -> Layer:
        """Figure 2(b), widths in the order of Table 1: H x W x C -> H x W x (one + three + five + pooled)."""
        return branches(
            conv(one, 1),
            conv(reduce3, 1) >> conv(three, 3),
            conv(reduce5, 1) >> conv(five, wide),
            max_pool(3) >> conv(pooled, 1),
        )

    return Design(
        stages={
            "stem": stem(batch_norm),
            "inception_3a": inception(64, 96, 128, 16, 32, 32),
            "inception_3b": inception(128, 128, 192, 32, 96, 64),
            "pool_3": max_pool(3, stride=2, ceil=True),
            "inception_4a": inception(192, 96, 208, 16, 48, 64),
            "inception_4b": inception(160, 112, 224, 24, 64, 64),
            "inception_4c": inception(128, 128, 256, 24, 64, 64),
            "inception_4d": inception(112, 144, 288, 32, 64, 64),
            "inception_4e": inception(256, 160, 320, 32, 128, 128),
            "pool_4": max_pool(2 if batch_norm else 3, stride=2, ceil=True),
            "inception_5a": inception(256, 160, 320, 32, 128, 128),
            "inception_5b": inception(384, 192, 384, 48, 128, 128),
        },
        auxiliary={"inception_4a": GoogLeNetHead(), "inception_4d": GoogLeNetHead()},
        auxiliary_weights=(0.3, 0.3),
        input_size=224,
        dropout=0.2 if batch_norm else 0.4,
    )
