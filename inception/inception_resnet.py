"""Inception-ResNet-v1 and -v2: "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning"
(arXiv 1602.07261).

Figures 7, 10 to 20; the figure numbers are those of the paper. Numbers of blocks, widths and residual scales are those
of the released weights, which differ from the figures. Shapes are height x width x channels for images of 299 x 299.
"""

from inception.inception_v3 import auxiliary
from inception.inception_v3 import stem as stem_v3
from inception.vocabulary.layers import Layer, avg_pool, branches, conv, max_pool, residual
from inception.vocabulary.network import Design

# How much of a block's residual is added at each grid (section 3.3 advises 0.1 to 0.3).
SCALE_A, SCALE_B, SCALE_C = 0.17, 0.10, 0.20

# Figure 14, the stem of v1: 299 x 299 x 3 -> 35 x 35 x 256
stem_v1 = (
    conv(32, 3, stride=2, valid=True)
    >> conv(32, 3, valid=True)
    >> conv(64, 3)
    >> max_pool(3, stride=2)
    >> conv(80, 1, valid=True)
    >> conv(192, 3, valid=True)
    >> conv(256, 3, stride=2, valid=True)
)

# The stem of v2's released weights, in place of Figure 3: 299 x 299 x 3 -> 35 x 35 x 192 -> 35 x 35 x 320
stem_v2 = stem_v3 >> branches(
    conv(96, 1),
    conv(48, 1) >> conv(64, 5),
    conv(64, 1) >> conv(96, 3) >> conv(96, 3),
    avg_pool(3) >> conv(64, 1),
)


def inception_a(middle: int, last: int) -> Layer:
    """Figures 10 (v1) and 16 (v2): 35 x 35 x (256, 320), in and out."""
    return residual(
        branches(
            conv(32, 1),
            conv(32, 1) >> conv(32, 3),
            conv(32, 1) >> conv(middle, 3) >> conv(last, 3),
        ),
        scale=SCALE_A,
    )


def reduction_a(reduce: int, middle: int, last: int) -> Layer:
    """Figure 7 with k, l, m of Table 1 and n = 384: 35 x 35 x (256, 320) -> 17 x 17 x (896, 1088)."""
    return branches(
        conv(384, 3, stride=2, valid=True),
        conv(reduce, 1) >> conv(middle, 3) >> conv(last, 3, stride=2, valid=True),
        max_pool(3, stride=2),
    )


def inception_b(one: int, first: int, second: int, third: int) -> Layer:
    """Figures 11 (v1) and 17 (v2): 17 x 17 x (896, 1088), in and out."""
    return residual(
        branches(
            conv(one, 1),
            conv(first, 1) >> conv(second, (1, 7)) >> conv(third, (7, 1)),
        ),
        scale=SCALE_B,
    )


def reduction_b(second: int, third: int, last: int) -> Layer:
    """Figures 12 (v1) and 18 (v2): 17 x 17 x (896, 1088) -> 8 x 8 x (1792, 2080)."""
    return branches(
        conv(256, 1) >> conv(384, 3, stride=2, valid=True),
        conv(256, 1) >> conv(second, 3, stride=2, valid=True),
        conv(256, 1) >> conv(third, 3) >> conv(last, 3, stride=2, valid=True),
        max_pool(3, stride=2),
    )


def inception_c(second: int, third: int, *, scale: float = SCALE_C, relu: bool = True) -> Layer:
    """Figures 13 (v1) and 19 (v2): 8 x 8 x (1792, 2080), in and out."""
    return residual(
        branches(
            conv(192, 1),
            conv(192, 1) >> conv(second, (1, 3)) >> conv(third, (3, 1)),
        ),
        scale=scale,
        relu=relu,
    )


def numbered(name: str, count: int, block: Layer) -> dict[str, Layer]:
    """The same block `count` times, as the stages name1, name2, ..."""
    return {f"{name}{number}": block for number in range(1, count + 1)}


def inception_resnet_v1(embedding: int = 512) -> Design:
    """Inception-ResNet-v1 of 1602.07261, Figure 15: 23,995,624 parameters at 1,000 classes.

    `embedding` is the width of the linear bottleneck before the classifier that the released weights have; 0 is the
    paper's network, which has none: 24,357,096 parameters.
    """
    return Design(
        stages={
            "stem": stem_v1,
            **numbered("inception_a", 5, inception_a(32, 32)),
            "reduction_a": reduction_a(192, 192, 256),
            **numbered("inception_b", 10, inception_b(128, 128, 128, 128)),
            "reduction_b": reduction_b(256, 256, 256),
            **numbered("inception_c", 5, inception_c(192, 192)),
            "inception_c6": inception_c(192, 192, scale=1.0, relu=False),
        },
        auxiliary={"inception_b10": auxiliary},
        auxiliary_weights=(0.4,),
        auxiliary_by_default=False,
        input_size=299,
        dropout=0.2,
        embedding=embedding,
    )


def inception_resnet_v2() -> Design:
    """Inception-ResNet-v2 of 1602.07261, Figure 15: 55,843,464 parameters at 1,000 classes without auxiliary head."""
    return Design(
        stages={
            "stem": stem_v2,
            **numbered("inception_a", 10, inception_a(48, 64)),
            "reduction_a": reduction_a(256, 256, 384),
            **numbered("inception_b", 20, inception_b(192, 128, 160, 192)),
            "reduction_b": reduction_b(288, 288, 320),
            **numbered("inception_c", 9, inception_c(224, 256)),
            "inception_c10": inception_c(224, 256, scale=1.0, relu=False),
            "last": conv(1536, 1),
        },
        auxiliary={"inception_b20": auxiliary},
        auxiliary_weights=(0.4,),
        auxiliary_by_default=False,
        input_size=299,
        dropout=0.2,
    )
