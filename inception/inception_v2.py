"""Inception-v2, also called BN-Inception: "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift" (arXiv 1502.03167).

Figure 5 (the table of the appendix). Widths are those of the released weights, which give more channels after 4c, 4d and
4e than the table. Shapes are height x width x channels for images of 224 x 224.
"""

from inception.googlenet import GoogLeNetHead
from inception.vocabulary.layers import Layer, avg_pool, branches, conv, max_pool
from inception.vocabulary.network import Design

# First four rows: 224 x 224 x 3 -> 28 x 28 x 192
stem = (
    conv(64, 7, stride=2)
    >> max_pool(3, stride=2, ceil=True)
    >> conv(64, 1)
    >> conv(192, 3)
    >> max_pool(3, stride=2, ceil=True)
)


def inception(one: int, reduce3: int, three: int, reduce_double: int, double: int, pool: Layer, pooled: int) -> Layer:
    """A row with stride 1, widths in the table's order: H x W x C -> H x W x (one + three + double + pooled)."""
    return branches(
        conv(one, 1),
        conv(reduce3, 1) >> conv(three, 3),
        conv(reduce_double, 1) >> conv(double, 3) >> conv(double, 3),
        pool >> conv(pooled, 1),
    )


def reduction(reduce3: int, three: int, reduce_double: int, double: int) -> Layer:
    """A row with stride 2: H x W x C -> H/2 x W/2 x (three + double + C)."""
    return branches(
        conv(reduce3, 1) >> conv(three, 3, stride=2),
        conv(reduce_double, 1) >> conv(double, 3) >> conv(double, 3, stride=2),
        max_pool(3, stride=2, cover=True),
    )


average = avg_pool(3, count_padding=True)


def inception_v2() -> Design:
    """BN-Inception of 1502.03167: 11,285,224 parameters at 1,000 classes; 11,295,240 with the released weights' biases,
    which batch normalisation makes redundant."""
    return Design(
        stages={
            "stem": stem,
            "inception_3a": inception(64, 64, 64, 64, 96, average, 32),
            "inception_3b": inception(64, 64, 96, 64, 96, average, 64),
            "inception_3c": reduction(128, 160, 64, 96),
            "inception_4a": inception(224, 64, 96, 96, 128, average, 128),
            "inception_4b": inception(192, 96, 128, 96, 128, average, 128),
            "inception_4c": inception(160, 128, 160, 128, 160, average, 128),
            "inception_4d": inception(96, 128, 192, 160, 192, average, 128),
            "inception_4e": reduction(128, 192, 192, 256),
            "inception_5a": inception(352, 192, 320, 160, 224, average, 128),
            "inception_5b": inception(352, 192, 320, 192, 224, max_pool(3), 128),
        },
        # The paper trains without them; they are GoogLeNet's, at the same places.
        auxiliary={"inception_4a": GoogLeNetHead(), "inception_4d": GoogLeNetHead()},
        auxiliary_weights=(0.3, 0.3),
        auxiliary_by_default=False,
        input_size=224,
        dropout=0.0,
        eps=1e-5,
    )
