"""Inception-v3: "Rethinking the Inception Architecture for Computer Vision" (arXiv 1512.00567).

Table 1 and Figures 5 to 8 and 10; the figure numbers are those of the paper. Widths that the paper leaves open are
those of the weights that its authors released. Shapes are height x width x channels for images of 299 x 299.
"""

from inception.vocabulary.layers import Layer, avg_pool, branches, conv, max_pool
from inception.vocabulary.network import Auxiliary, Design

# Table 1, first seven rows: 299 x 299 x 3 -> 35 x 35 x 192
stem = (
    conv(32, 3, stride=2, valid=True)
    >> conv(32, 3, valid=True)
    >> conv(64, 3)
    >> max_pool(3, stride=2)
    >> conv(80, 1, valid=True)
    >> conv(192, 3, valid=True)
    >> max_pool(3, stride=2)
)


def inception_a(pooled: int) -> Layer:
    """Figure 5: 35 x 35 x (192, 256, 288) -> 35 x 35 x (224 + pooled). The released weights keep one 5x5."""
    return branches(
        conv(64, 1),
        conv(48, 1) >> conv(64, 5),
        conv(64, 1) >> conv(96, 3) >> conv(96, 3),
        avg_pool(3, count_padding=True) >> conv(pooled, 1),
    )


# Figure 10: 35 x 35 x 288 -> 17 x 17 x 768
reduction_a = branches(
    conv(384, 3, stride=2, valid=True),
    conv(64, 1) >> conv(96, 3) >> conv(96, 3, stride=2, valid=True),
    max_pool(3, stride=2),
)


def inception_b(inner: int) -> Layer:
    """Figure 6 with n = 7: 17 x 17 x 768 -> 17 x 17 x 768."""
    return branches(
        conv(192, 1),
        conv(inner, 1) >> conv(inner, (1, 7)) >> conv(192, (7, 1)),
        conv(inner, 1) >> conv(inner, (7, 1)) >> conv(inner, (1, 7)) >> conv(inner, (7, 1)) >> conv(192, (1, 7)),
        avg_pool(3, count_padding=True) >> conv(192, 1),
    )


# As Figure 10, with a factorised 7x7: 17 x 17 x 768 -> 8 x 8 x 1280
reduction_b = branches(
    conv(192, 1) >> conv(320, 3, stride=2, valid=True),
    conv(192, 1) >> conv(192, (1, 7)) >> conv(192, (7, 1)) >> conv(192, 3, stride=2, valid=True),
    max_pool(3, stride=2),
)

# Figure 7: 8 x 8 x (1280, 2048) -> 8 x 8 x 2048
inception_c = branches(
    conv(320, 1),
    conv(384, 1) >> branches(conv(384, (1, 3)), conv(384, (3, 1))),
    conv(448, 1) >> conv(384, 3) >> branches(conv(384, (1, 3)), conv(384, (3, 1))),
    avg_pool(3, count_padding=True) >> conv(192, 1),
)

# Figure 8: 17 x 17 x 768 -> 5 x 5 x 768 -> 5 x 5 x 128 -> 1 x 1 x 768 -> classes
auxiliary = Auxiliary(avg_pool(5, stride=3) >> conv(128, 1) >> conv(768, 5, valid=True, std=0.01), std=0.001)


def inception_v3() -> Design:
    """Inception-v3 of 1512.00567: 27,161,264 parameters at 1,000 classes with the auxiliary head."""
    return Design(
        stages={
            "stem": stem,
            "inception_a1": inception_a(32),
            "inception_a2": inception_a(64),
            "inception_a3": inception_a(64),
            "reduction_a": reduction_a,
            "inception_b1": inception_b(128),
            "inception_b2": inception_b(160),
            "inception_b3": inception_b(160),
            "inception_b4": inception_b(192),
            "reduction_b": reduction_b,
            "inception_c1": inception_c,
            "inception_c2": inception_c,
        },
        auxiliary={"inception_b4": auxiliary},
        auxiliary_weights=(0.4,),
        input_size=299,
        dropout=0.5,
        initial_std=0.1,
    )
