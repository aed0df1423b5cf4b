"""Every network: published sizes, shapes from the smallest image upward, options, and one clear line for mistakes."""

import pytest
import torch
from torch import nn

import inception
from inception import NetworkError

# At 1,000 classes. v3: torchvision's table of models, with and without the auxiliary head; v4: timm's table of results.
PUBLISHED_PARAMETERS = [
    ("inception_v3", {}, 27_161_264),
    ("inception_v3", {"auxiliary": False}, 23_834_568),
    ("inception_v4", {}, 42_679_816),
]
NAMES = inception.list_models()


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(name: str, *arguments, **options) -> inception.Network:
    """A network without storage: its shapes and names at no cost."""
    with torch.device("meta"):
        return inception.create_model(name, *arguments, **options)


@pytest.mark.parametrize(("name", "options", "count"), PUBLISHED_PARAMETERS)
def test_parameter_counts_are_the_published_ones(name, options, count):
    assert parameters(on_meta(name, **options)) == count


def test_the_debug_network_is_small():
    assert parameters(on_meta("debug")) < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_output_shapes_in_training_and_evaluation(name):
    network = on_meta(name, 7)
    size = network.input_size
    images = torch.empty(2, 3, size, size, device="meta")
    network.train()
    output = network(images)
    if network.auxiliary_weights:
        assert isinstance(output, tuple)
        assert len(output) == 1 + len(network.auxiliary_weights)
        assert [logits.shape for logits in output] == [(2, 7)] * len(output)
    else:
        assert output.shape == (2, 7)
    network.eval()
    assert network(images).shape == (2, 7)
    features = network.forward_features(images)
    assert features.shape[:2] == (2, network.num_features)
    assert network.embed(images).shape == (2, network.num_features)


@pytest.mark.parametrize("name", NAMES)
def test_every_size_from_the_smallest_upward_works(name):
    network = on_meta(name, 7).train()
    sizes = [network.smallest_size + more for more in (0, 1, 2, 3, 5, 10, 17, 28)]  # odd and even at every grid
    for size in [*sizes, network.input_size + 1]:
        output = network(torch.empty(2, 3, size, network.smallest_size, device="meta"))
        main = output[0] if isinstance(output, tuple) else output
        assert main.shape == (2, 7)
    with pytest.raises(NetworkError, match=f"at least {network.smallest_size} x {network.smallest_size} pixels"):
        network(torch.empty(2, 3, network.smallest_size - 1, 300, device="meta"))


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_size_is_the_smallest(name):
    """One pixel less and PyTorch itself has nothing left to compute: the limit is not stricter than it need be."""
    network = on_meta(name, 7, auxiliary=False).eval()
    size, network.smallest_size = network.smallest_size - 1, 0
    with pytest.raises(RuntimeError):
        network(torch.empty(1, 3, size, size, device="meta"))


@pytest.mark.parametrize("name", NAMES)
def test_options_change_what_they_name(name):
    plain = on_meta(name, 7)
    assert on_meta(name, 7, in_channels=1)(torch.empty(2, 1, 299, 299, device="meta")) is not None
    thin = on_meta(name, 7, width=0.25)
    assert parameters(thin) < parameters(plain) / 8
    assert all(m.out_channels % 8 == 0 for m in thin.modules() if isinstance(m, nn.Conv2d))
    assert on_meta(name, 7, dropout=0.3).dropout.p == 0.3
    without = on_meta(name, 7, auxiliary=False)
    assert without.auxiliary_weights == ()
    assert not any(key.startswith("auxiliary") for key in without.state_dict())
    bare = on_meta(name, 7, batch_norm=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in bare.modules())
    assert all(m.bias is not None for m in bare.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", NAMES)
def test_options_in_the_metadata_rebuild_the_network(name):
    first = on_meta(name, 7, width=0.5, in_channels=1, dropout=0.1)
    said = first.metadata()
    second = on_meta(said["network"], said["num_classes"], **said["options"])
    assert {k: v.shape for k, v in first.state_dict().items()} == {k: v.shape for k, v in second.state_dict().items()}
    assert second.dropout.p == 0.1
    assert second.metadata() == said


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = inception.create_model("debug", 5).train()
    sum(logits.square().sum() for logits in network(torch.randn(4, 3, 32, 32))).backward()
    assert [k for k, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("inception_v5",), {}, "unknown network 'inception_v5', did you mean 'inception_v"),
        (("Inception-V4",), {}, "did you mean 'inception_v4'"),
        (("debug",), {"drop_out": 0.2}, "no option 'drop_out', did you mean 'dropout'"),
        (("debug",), {"dropout": 1.0}, "dropout must be a number at least 0 and below 1, not 1.0"),
        (("debug",), {"dropout": "much"}, "dropout must be a number"),
        (("debug",), {"width": 0}, "width must be a number above 0, not 0"),
        (("debug",), {"width": float("nan")}, "width must be a number above 0, not nan"),
        (("debug",), {"auxiliary": 1}, "auxiliary must be true or false, not 1"),
        (("debug",), {"in_channels": 0}, "in_channels must be an integer of at least 1, not 0"),
        (("debug", 0), {}, "num_classes must be an integer of at least 1, not 0"),
        (("debug", 10.0), {}, "num_classes must be an integer of at least 1, not 10.0"),
    ],
)
def test_mistakes_are_named_in_one_line(arguments, options, message):
    with pytest.raises(NetworkError) as caught:
        inception.create_model(*arguments, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 32, 32), r"takes images of shape \(N, 3, H, W\), not \(1, 1, 32, 32\)"),
        (torch.zeros(3, 32, 32), r"takes images of shape \(N, 3, H, W\), not \(3, 32, 32\)"),
        (torch.zeros(1, 3, 8, 32), "at least 14 x 14 pixels, not 8 x 32; its own size is 32"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "normalised floating-point images, not torch.uint8"),
    ],
)
def test_wrong_images_are_named(images, message):
    with pytest.raises(NetworkError, match=message):
        inception.create_model("debug", 10)(images)
