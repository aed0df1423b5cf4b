"""Counts of operations and bytes against arithmetic by hand and against published numbers."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from benchmarks.measuring.counting import counts
from inception import create_model


# The papers' networks as timm's table of results counts them, in G multiply-adds at 299 pixels; normalisation and
# pooling, which it counts too, are worth the half percent.
@pytest.mark.parametrize(
    ("name", "published"), [("inception_v3", 5.73e9), ("inception_v4", 12.28e9), ("inception_resnet_v2", 13.18e9)]
)
def test_our_networks_have_the_published_counts(name, published):
    assert counts(partial(create_model, name), 2, 299).macs == pytest.approx(published, rel=0.005)


# torchvision writes these numbers into the metadata of its weights.
@pytest.mark.parametrize(
    ("build", "size", "weights"),
    [
        (torchvision.models.resnet50, 224, torchvision.models.ResNet50_Weights.IMAGENET1K_V2),
        (torchvision.models.alexnet, 224, torchvision.models.AlexNet_Weights.IMAGENET1K_V1),
    ],
)
def test_known_networks_have_the_counts_their_authors_state(build, size, weights):
    assert counts(build, 2, size).macs == pytest.approx(weights.meta["_ops"] * 1e9, rel=0.002)


class Unit(nn.Module):
    """Two units, so that the second must differentiate its input and the first need not."""

    def __init__(self):
        super().__init__()
        for name, channels in (("first", 3), ("second", 8)):
            self.add_module(
                name, nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            )

    def forward(self, x):
        return self.second(self.first(x))


def test_a_unit_counted_by_hand():
    first, second = counts(Unit, 2, 10).blocks
    pixels = 2 * 10 * 10
    assert first.macs == pixels * 3 * 8 * 9
    assert second.macs == pixels * 8 * 8 * 9
    # Backward: the gradient of the weights, and that of the input where it is needed.
    assert first.operations == 2 * 2 * first.macs
    assert second.operations == 3 * 2 * second.macs

    plane, weights = 4 * 8 * pixels, 4 * 8 * 8 * 9
    convolution = (plane + weights + plane) * 3  # forward, gradient of the input, gradient of the weights
    normalisation = 8 * plane  # three passes forward with the ReLU, five backward
    assert second.bytes == convolution + normalisation


DEBUG = partial(create_model, "debug")


def test_half_the_precision_is_half_the_bytes_and_all_of_the_operations():
    full, half = counts(DEBUG, 4, 32).blocks, counts(DEBUG, 4, 32, torch.bfloat16).blocks
    assert [b.operations for b in half] == [b.operations for b in full]
    bytes_of_half, bytes_of_full = (sum(b.bytes for b in blocks) for blocks in (half, full))
    assert bytes_of_half == pytest.approx(bytes_of_full / 2, rel=0.04)  # but for pooling's indices


def test_operations_grow_with_the_batch_and_weights_do_not():
    one, four = counts(DEBUG, 1, 32).blocks, counts(DEBUG, 4, 32).blocks
    assert sum(b.operations for b in four) == 4 * sum(b.operations for b in one)
    assert [b.parameters for b in four] == [b.parameters for b in one]
    assert sum(b.parameters for b in one) == sum(p.numel() for p in create_model("debug").parameters())
