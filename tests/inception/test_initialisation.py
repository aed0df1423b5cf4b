"""Fresh weights: fixed by the seed, of the stated deviations, drawn once."""

import math

import pytest
import torch
from torch import nn

import inception
from inception.vocabulary.network import truncated_normal


def test_the_seed_fixes_the_weights():
    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return inception.create_model("debug", 10).state_dict()

    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_convolutions_keep_the_variance_of_their_input():
    torch.manual_seed(0)
    network = inception.create_model("debug", 10)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            wanted = math.sqrt(2 / module.weight[0].numel())
            error = 4 / math.sqrt(2 * module.weight.numel())  # four standard errors of an estimated deviation
            assert module.weight.std().item() == pytest.approx(wanted, rel=error), name


def test_inception_v3_has_the_deviations_of_its_authors():
    torch.manual_seed(0)
    network = inception.create_model("inception_v3", 100, width=0.25)
    cut = 0.8796  # of a unit normal distribution cut off at two deviations
    stem, head = network.stem, network.auxiliary1
    assert network.inception_c1.branch1.conv.weight.std().item() == pytest.approx(0.1 * cut, rel=0.02)
    assert stem[5].conv.weight.abs().max().item() <= 0.2
    assert head.features[2].conv.weight.std().item() == pytest.approx(0.01 * cut, rel=0.02)
    assert head.classifier.weight.std().item() == pytest.approx(0.001 * cut, rel=0.02)
    assert network.classifier.bias.abs().sum() == 0


def test_the_distribution_is_the_truncated_normal_one():
    torch.manual_seed(0)
    weight = torch.empty(64, 500)
    truncated_normal(weight, 0.3)
    reference = torch.empty(64, 500)
    nn.init.trunc_normal_(reference, std=0.3, a=-0.6, b=0.6)
    assert weight.abs().max() <= 0.6
    levels = torch.linspace(0.02, 0.98, 25)
    assert torch.allclose(weight.flatten().quantile(levels), reference.flatten().quantile(levels), atol=0.02)


def test_normalisations_start_as_the_identity_and_everything_is_finite():
    torch.manual_seed(0)
    network = inception.create_model("debug", 10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert (module.running_var == 1).all()
            assert module.num_batches_tracked == 0
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_weights_are_made_on_the_default_device():
    with torch.device("meta"):
        assert inception.create_model("debug", 10).classifier.weight.is_meta
    assert inception.create_model("debug", 10).classifier.weight.device.type == "cpu"
