"""Every network: published sizes, shapes from the smallest image upward, options, and one clear line for mistakes."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import inception
from inception import NetworkError
from inception.vocabulary.modules import CoveringMaxPool2d, grid_average

# Parameters at 1,000 classes. googlenet, v3: torchvision's table of models, with and without its heads; googlenet without
# batch normalisation: Caffe's model of the paper; v4, Inception-ResNet-v2: timm's table of results;
# Inception-ResNet-v1: pytorchcv's table.
PUBLISHED_PARAMETERS = [
    ("googlenet", {}, 13_004_888),
    ("googlenet", {"auxiliary": False}, 6_624_904),
    ("googlenet", {"batch_norm": False}, 13_378_280),
    ("googlenet", {"batch_norm": False, "auxiliary": False}, 6_998_552),
    ("inception_v3", {}, 27_161_264),
    ("inception_v3", {"auxiliary": False}, 23_834_568),
    ("inception_v4", {}, 42_679_816),
    ("inception_resnet_v1", {}, 23_995_624),
    ("inception_resnet_v2", {}, 55_843_464),
]
# Millions of multiply-adds for one image of the network's own size. torchvision counts as here; timm (three digits) and
# pytorchcv also count some element-wise operations, hence the tolerance.
PUBLISHED_MACS = [
    ("googlenet", 1_498, 0.001),  # torchvision; the paper says 1.5 billion
    ("inception_v2", 2_048.06, 0.01),  # pytorchcv
    ("inception_v3", 5_713, 0.001),  # torchvision
    ("inception_v4", 12_280, 0.005),  # timm
    ("inception_resnet_v1", 6_329.60, 0.005),  # pytorchcv
    ("inception_resnet_v2", 13_180, 0.005),  # timm
]
# The papers' tables and figures, at the network's own size: stage -> height and width, channels. Where they disagree
# with the released weights (docs/networks.md) the channels are the weights'.
SHAPES = {
    "googlenet": {  # 1409.4842, Table 1
        "stem": (28, 192), "inception_3a": (28, 256), "inception_3b": (28, 480), "pool_3": (14, 480),
        "inception_4a": (14, 512), "inception_4b": (14, 512), "inception_4c": (14, 512), "inception_4d": (14, 528),
        "inception_4e": (14, 832), "pool_4": (7, 832), "inception_5a": (7, 832), "inception_5b": (7, 1024),
    },
    "inception_v2": {  # 1502.03167, Figure 5
        "stem": (28, 192), "inception_3a": (28, 256), "inception_3b": (28, 320), "inception_3c": (14, 576),
        "inception_4a": (14, 576), "inception_4b": (14, 576), "inception_4c": (14, 608), "inception_4d": (14, 608),
        "inception_4e": (7, 1056), "inception_5a": (7, 1024), "inception_5b": (7, 1024),
    },
    "inception_v3": {  # 1512.00567, Table 1
        "stem": (35, 192), "inception_a1": (35, 256), "inception_a": (35, 288), "reduction_a": (17, 768),
        "inception_b": (17, 768), "reduction_b": (8, 1280), "inception_c": (8, 2048),
    },
    "inception_v4": {  # 1602.07261, Figure 9
        "stem": (35, 384), "inception_a": (35, 384), "reduction_a": (17, 1024), "inception_b": (17, 1024),
        "reduction_b": (8, 1536), "inception_c": (8, 1536),
    },
    "inception_resnet_v1": {  # 1602.07261, Figures 10 to 15
        "stem": (35, 256), "inception_a": (35, 256), "reduction_a": (17, 896), "inception_b": (17, 896),
        "reduction_b": (8, 1792), "inception_c": (8, 1792),
    },
    "inception_resnet_v2": {  # 1602.07261, Figures 15 to 19
        "stem": (35, 320), "inception_a": (35, 320), "reduction_a": (17, 1088), "inception_b": (17, 1088),
        "reduction_b": (8, 2080), "inception_c": (8, 2080), "last": (8, 1536),
    },
}  # fmt: skip
# Blocks at each grid: the papers' figures, for Inception-ResNets the released weights'.
BLOCKS = {
    "inception_v3": (3, 4, 2),
    "inception_v4": (4, 7, 3),
    "inception_resnet_v1": (5, 10, 6),
    "inception_resnet_v2": (10, 20, 10),
}
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


def test_biases_before_normalisations_are_all_that_the_released_inception_v2_has_more():
    network = on_meta("inception_v2")
    biases = sum(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d))
    assert parameters(network) + biases == 11_295_240  # pytorchcv's table


@pytest.mark.parametrize(("name", "millions", "tolerance"), PUBLISHED_MACS)
def test_multiply_adds_are_the_published_ones(name, millions, tolerance):
    network = on_meta(name).eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, network.input_size, network.input_size, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(millions, rel=tolerance)


@pytest.mark.parametrize("name", SHAPES)
def test_every_block_has_the_shape_of_the_papers_table(name):
    network = on_meta(name).eval()
    x = torch.empty(1, 3, network.input_size, network.input_size, device="meta")
    for stage in network.stages:
        x = getattr(network, stage)(x)
        side, channels = SHAPES[name].get(stage) or SHAPES[name][stage.rstrip("0123456789")]
        assert tuple(x.shape) == (1, channels, side, side), stage
    kinds = [[s for s in network.stages if s.startswith(f"inception_{kind}")] for kind in "abc"]
    assert tuple(map(len, kinds)) == BLOCKS.get(name, (0, 0, 0))


def test_the_debug_network_is_small():
    assert parameters(on_meta("debug")) < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_output_shapes_in_training_and_evaluation(name):
    network = inception.create_model(name, 7, width=0.25).train()
    images = torch.zeros(2, 3, network.smallest_size, network.smallest_size)
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
    assert network.embed(images).shape == (2, network.classifier.in_features)


@pytest.mark.parametrize("name", NAMES)
def test_every_size_from_the_smallest_upward_works(name):
    network = inception.create_model(name, 7, width=0.25).train()  # a thin one takes less time than the meta device
    sizes = [network.smallest_size + more for more in (0, 1, 2, 5, 17)]  # odd and even at every grid
    for size in [*sizes, network.input_size + 1]:
        output = network(torch.zeros(2, 3, size, network.smallest_size))
        main = output[0] if isinstance(output, tuple) else output
        assert main.shape == (2, 7)
    with pytest.raises(NetworkError, match=f"at least {network.smallest_size} x {network.smallest_size} pixels"):
        network(torch.zeros(2, 3, network.smallest_size - 1, 300))


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


def test_inception_resnet_v1_without_bottleneck_is_the_papers():
    network = on_meta("inception_resnet_v1", embedding=0)
    assert network.classifier.in_features == 1792
    assert parameters(network) == 24_357_096


def test_covering_pools_are_caffes_on_even_grids_and_lose_nothing_on_odd_ones():
    pool, caffe = CoveringMaxPool2d(3, 2), nn.MaxPool2d(3, 2, ceil_mode=True)
    even, odd = torch.randn(2, 4, 14, 8), torch.randn(2, 4, 7, 8)
    assert torch.equal(pool(even), caffe(even))
    assert pool(odd).shape == (2, 4, 4, 4)
    assert torch.equal(pool(odd)[:, :, :3], caffe(odd))
    assert torch.equal(pool(odd)[:, :, 3], nn.functional.max_pool2d(odd[:, :, 6:], (1, 3), 2, ceil_mode=True)[:, :, 0])


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
        (("inception_resnet_v1",), {"embedding": -1}, "embedding must be an integer of at least 0, not -1"),
        (("inception_resnet_v2",), {"embedding": 8}, "inception_resnet_v2 has no option 'embedding'"),
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


@pytest.mark.parametrize(("size", "grid"), [((14, 14), 4), ((7, 9), 4), ((4, 4), 4), ((3, 5), 4), ((16, 16), 4)])
def test_averages_over_a_grid_are_those_of_adaptive_pooling(size, grid):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    ours, theirs = grid_average(x, grid), torch.nn.functional.adaptive_avg_pool2d(x, grid)
    assert torch.allclose(ours, theirs, atol=1e-7)
    ours_gradient, theirs_gradient = (torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, theirs))
    assert torch.allclose(ours_gradient, theirs_gradient, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["googlenet", "debug"])
def test_a_network_trains_with_deterministic_kernels_on_a_gpu(name, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    network = inception.create_model(name, 10, width=0.25, dropout=0.0).cuda().train()
    images = torch.randn(4, 3, 128, 128, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        gradients = []
        for _ in range(2):
            torch.manual_seed(0)  # GoogLeNet's heads drop out whatever the option says
            loss = sum(logits.square().sum() for logits in network(images))
            gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first, second) for first, second in zip(*gradients))
