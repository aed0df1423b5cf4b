"""Merged blocks compute what separate branches compute: outputs, gradients, statistics; names and files do not notice."""

import copy

import pytest
import torch
from torch import nn

import inception
from inception.speed.sibling_convolutions import WideBranches, fuse, head_of, wide_branches
from inception.vocabulary.layers import Style, avg_pool, branches, conv, max_pool
from inception.vocabulary.modules import BranchesBlock, ConvUnit
from references import outputs_and_gradients, relative, sensitivity, without_dropout

# Blocks of every network that have two mergeable branches or more: all but those whose branches begin with 3x3
# convolutions and pools alone.
CHANGED = {
    "debug": 3,
    "googlenet": 9,
    "inception_v2": 10,
    "inception_v3": 3 + 4 + 1 + 2,
    "inception_v4": 1 + 4 + 7 + 1 + 3,
    "inception_resnet_v1": 5 + 10 + 1 + 6,
    "inception_resnet_v2": 1 + 10 + 20 + 1 + 10,
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_structure_of_every_network_is_found(name):
    with torch.device("meta"):
        network = inception.create_model(name, 10)
    before = list(network.state_dict())
    assert fuse(network) == CHANGED[name]
    assert list(network.state_dict()) == before
    assert fuse(network, enabled=False) == 0
    assert all(module.wide is None for module in network.modules() if isinstance(module, BranchesBlock))


def network_and_fused(name: str, dtype: torch.dtype, **options) -> tuple[inception.Network, inception.Network]:
    torch.manual_seed(0)
    plain = inception.create_model(name, 10, **options).to(dtype)
    without_dropout(plain)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    fused = copy.deepcopy(plain)
    assert fuse(fused) > 0
    return plain, fused


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", CHANGED)
def test_networks_compute_the_same(name, training):
    size = 107 if name.startswith(("inception_r", "inception_v3", "inception_v4")) else 64
    plain, fused = (n.train(training) for n in network_and_fused(name, torch.float64, width=0.25))
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    assert sensitivity(plain, images) * 1e-14 < 1e-10
    (logits, gradients), (fused_logits, fused_gradients) = (outputs_and_gradients(n, images) for n in (plain, fused))
    assert max(relative(a, b) for a, b in zip(fused_logits, logits)) < 1e-10
    assert gradients.keys() == fused_gradients.keys()
    scale = max(gradient.norm() for gradient in gradients.values())
    for key, gradient in gradients.items():
        # Gradients that are zero but for rounding (a bias before a normalisation) have no relative error.
        assert relative(fused_gradients[key], gradient) < 1e-9 or gradient.norm() < 1e-12 * scale, key
    state = fused.state_dict()
    for key, tensor in plain.state_dict().items():
        assert torch.allclose(tensor, state[key], rtol=1e-9), key


KINDS = {
    "pooled with its padding": branches(conv(16, 1), conv(8, 1) >> conv(16, 3), avg_pool(3, count_padding=True) >> conv(8, 1)),
    "pooled without": branches(avg_pool(3) >> conv(8, 1), conv(16, 1), conv(8, 1) >> conv(16, 3)),
    "max-pooled": branches(conv(16, 1), conv(8, 1) >> conv(16, (1, 7)) >> conv(8, (7, 1)), max_pool(3) >> conv(8, 1)),
    "reduction": branches(conv(16, 3, stride=2, valid=True), conv(8, 1) >> conv(8, 3, stride=2, valid=True),
                          conv(24, 1) >> conv(8, 3) >> conv(8, 3, stride=2, valid=True), max_pool(3, stride=2)),
    "nested": branches(conv(16, 1), conv(8, 1) >> branches(conv(8, (1, 3)), conv(8, (3, 1)))),
}  # fmt: skip


@pytest.mark.parametrize("batch_norm", [True, False], ids=["normalised", "with biases"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_compute_the_same_in_single_precision(kind, batch_norm):
    torch.manual_seed(0)
    block, _ = KINDS[kind].build(24, Style(batch_norm=batch_norm))
    if not batch_norm:
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                module.bias.data.normal_()
    fused = copy.deepcopy(block)
    assert fuse(fused) == 1
    images = torch.randn(3, 24, 13, 13)
    (output, gradients), (fused_output, fused_gradients) = (outputs_and_gradients(b, images) for b in (block, fused))
    assert relative(fused_output[0], output[0]) < 1e-5
    for key, gradient in gradients.items():
        assert relative(fused_gradients[key], gradient) < 1e-5, key


def test_what_cannot_be_merged_is_left_alone():
    def built(layer, batch_norm=True):
        return layer.build(16, Style(batch_norm=batch_norm))[0]

    assert isinstance(head_of(built(conv(8, 1))).unit, ConvUnit)
    assert head_of(built(avg_pool(3) >> conv(8, 1))).pool is not None
    assert head_of(built(conv(8, 3))) is None
    assert head_of(built(conv(8, 1, stride=2))) is None
    assert head_of(built(max_pool(3) >> conv(8, 1))) is None
    assert head_of(built(max_pool(3))) is None
    assert head_of(built(avg_pool(3, stride=2) >> conv(8, 1))) is None
    # A bias would be pooled together with the zeros around the image.
    assert head_of(built(avg_pool(3) >> conv(8, 1), batch_norm=False)) is None
    assert wide_branches(built(branches(conv(8, 1), conv(8, 3)))) is None


def test_left_open_training_on_a_cpu_is_merged_alone(monkeypatch):
    """Where it is measured to be faster."""
    merged = []
    run = WideBranches.__call__
    monkeypatch.setattr(WideBranches, "__call__", lambda self, x: merged.append(x.device) or run(self, x))
    with torch.device("meta"):
        elsewhere = inception.create_model("debug", 10, fuse=None)
    here = inception.create_model("debug", 10, fuse=None)
    here.train()(torch.randn(2, 3, 32, 32))
    assert len(merged) == CHANGED["debug"]
    here.eval()(torch.randn(2, 3, 32, 32))
    elsewhere.train()(torch.randn(2, 3, 32, 32, device="meta"))
    assert len(merged) == CHANGED["debug"]


def test_the_option_and_the_file(tmp_path):
    torch.manual_seed(0)
    fused = inception.create_model("debug", 10, fuse=True).eval()
    assert any(module.wide for module in fused.modules() if isinstance(module, BranchesBlock))
    inception.save_weights(tmp_path / "w.safetensors", fused.state_dict(), fused.metadata())
    plain = inception.create_model("debug", 10, fuse=False).eval()
    assert not any(module.wide for module in plain.modules() if isinstance(module, BranchesBlock))
    assert "all" in inception.load_weights(plain, tmp_path / "w.safetensors")
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(plain(images), fused(images), atol=1e-5)


def test_copies_run_with_their_own_weights():
    plain, fused = network_and_fused("debug", torch.float32)
    copied = copy.deepcopy(fused).eval()
    for parameter in fused.parameters():
        parameter.data.zero_()
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(copied(images), plain.eval()(images), atol=1e-4)
