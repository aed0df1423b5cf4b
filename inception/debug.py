"""An Inception network in miniature, for tests, examples and small images of 32 to 64 pixels.

It has what the large ones have (a stem, blocks with factorised convolutions and pooled branches, grid reductions, an
auxiliary head) in widths that CPUs like, so that training it takes minutes on two cores. Shapes are height x width x
channels for images of 32 x 32.
"""

from inception.vocabulary.layers import avg_pool, branches, conv, max_pool
from inception.vocabulary.network import Auxiliary, Design

# 32 x 32 x 3 -> 16 x 16 x 32
stem = conv(32, 3, stride=1) >> max_pool(3, stride=2, ceil=True)

# 16 x 16 x 32 -> 16 x 16 x 96
inception_a = branches(
    conv(16, 1),
    conv(32, 3),
    conv(32, 1) >> conv(32, 3),
    avg_pool(3) >> conv(16, 1),
)

# 16 x 16 x 96 -> 7 x 7 x 192
reduction_a = branches(
    conv(96, 3, stride=2, valid=True),
    max_pool(3, stride=2),
)

# 7 x 7 x 192 -> 7 x 7 x 192
inception_b = branches(
    conv(64, 1),
    conv(48, 1) >> conv(48, (1, 5)) >> conv(64, (5, 1)),
    conv(48, 1) >> conv(32, 3),
    avg_pool(3) >> conv(32, 1),
)

# 7 x 7 x 192 -> 3 x 3 x 320
reduction_b = branches(
    conv(128, 3, stride=2, valid=True),
    max_pool(3, stride=2),
)

# 3 x 3 x 320 -> 3 x 3 x 384
inception_c = branches(
    conv(128, 1),
    conv(96, 1) >> branches(conv(96, (1, 3)), conv(96, (3, 1))),
    avg_pool(3) >> conv(64, 1),
)


def debug() -> Design:
    """A miniature for tests and small images."""
    return Design(
        stages={
            "stem": stem,
            "inception_a": inception_a,
            "reduction_a": reduction_a,
            "inception_b": inception_b,
            "reduction_b": reduction_b,
            "inception_c": inception_c,
        },
        auxiliary={"inception_b": Auxiliary(avg_pool(3, stride=2) >> conv(48, 1))},
        auxiliary_weights=(0.3,),
        input_size=32,
        dropout=0.0,
        crop_fraction=1.0,
    )
