"""Inception-v4: "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning" (arXiv 1602.07261).

Figures 3 to 9; the figure numbers are those of the paper. Shapes are height x width x channels for images of 299 x 299.
"""

from inception.inception_v3 import auxiliary
from inception.vocabulary.layers import avg_pool, branches, conv, max_pool
from inception.vocabulary.network import Design

# Figure 3: 299 x 299 x 3 -> 35 x 35 x 384
stem = (
    conv(32, 3, stride=2, valid=True)
    >> conv(32, 3, valid=True)
    >> conv(64, 3)
    >> branches(
        max_pool(3, stride=2),
        conv(96, 3, stride=2, valid=True),
    )
    >> branches(
        conv(64, 1) >> conv(96, 3, valid=True),
        conv(64, 1) >> conv(64, (1, 7)) >> conv(64, (7, 1)) >> conv(96, 3, valid=True),
    )
    >> branches(
        conv(192, 3, stride=2, valid=True),
        max_pool(3, stride=2),
    )
)

# Figure 4: 35 x 35 x 384 -> 35 x 35 x 384
inception_a = branches(
    conv(96, 1),
    conv(64, 1) >> conv(96, 3),
    conv(64, 1) >> conv(96, 3) >> conv(96, 3),
    avg_pool(3) >> conv(96, 1),
)

# Figure 7 with k, l, m, n = 192, 224, 256, 384 (Table 1): 35 x 35 x 384 -> 17 x 17 x 1024
reduction_a = branches(
    conv(384, 3, stride=2, valid=True),
    conv(192, 1) >> conv(224, 3) >> conv(256, 3, stride=2, valid=True),
    max_pool(3, stride=2),
)

# Figure 5: 17 x 17 x 1024 -> 17 x 17 x 1024
inception_b = branches(
    conv(384, 1),
    conv(192, 1) >> conv(224, (1, 7)) >> conv(256, (7, 1)),
    conv(192, 1) >> conv(192, (7, 1)) >> conv(224, (1, 7)) >> conv(224, (7, 1)) >> conv(256, (1, 7)),
    avg_pool(3) >> conv(128, 1),
)

# Figure 8: 17 x 17 x 1024 -> 8 x 8 x 1536
reduction_b = branches(
    conv(192, 1) >> conv(192, 3, stride=2, valid=True),
    conv(256, 1) >> conv(256, (1, 7)) >> conv(320, (7, 1)) >> conv(320, 3, stride=2, valid=True),
    max_pool(3, stride=2),
)

# Figure 6: 8 x 8 x 1536 -> 8 x 8 x 1536
inception_c = branches(
    conv(256, 1),
    conv(384, 1) >> branches(conv(256, (1, 3)), conv(256, (3, 1))),
    conv(384, 1) >> conv(448, (3, 1)) >> conv(512, (1, 3)) >> branches(conv(256, (1, 3)), conv(256, (3, 1))),
    avg_pool(3) >> conv(256, 1),
)


def inception_v4() -> Design:
    """Inception-v4 of 1602.07261, Figure 9: 42,679,816 parameters at 1,000 classes without the auxiliary head."""
    return Design(
        stages={
            "stem": stem,
            **{f"inception_a{number}": inception_a for number in range(1, 5)},
            "reduction_a": reduction_a,
            **{f"inception_b{number}": inception_b for number in range(1, 8)},
            "reduction_b": reduction_b,
            **{f"inception_c{number}": inception_c for number in range(1, 4)},
        },
        # The paper shows no auxiliary head; its authors' code offers that of Inception-v3 at the same place.
        auxiliary={"inception_b7": auxiliary},
        auxiliary_weights=(0.4,),
        auxiliary_by_default=False,
        input_size=299,
        dropout=0.2,
    )
