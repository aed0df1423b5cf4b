"""Other people's networks with random weights and statistics, ours with the same weights, and how far they differ."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

import inception
from inception.weights.others_layouts import to_ours
from inception.weights.others_names import layout_for

CLASSES = 10


Sizes = tuple[tuple[int, int], tuple[int, int]]
# They leave two pixels or more a side at the last grid: the statistics of a single pixel are ill-conditioned.
SMALL: Sizes = ((64, 64), (90, 107))
MEDIUM: Sizes = ((96, 128), (128, 128))
LARGE: Sizes = ((107, 107), (107, 120))
# Inception-v3's auxiliary head needs, in other projects, the grid of 17 x 17 that the network's own size gives.
FULL: Sizes = ((299, 299), (299, 305))


@dataclass(frozen=True)
class Reference:
    """A network of another project: how it is made, what ours is called, at which sizes the two are compared.

    `often`: in every test run. `fp32`: also in single precision; not where the converter moves biases into means, which
    rounds differently and lets some ReLUs near zero decide differently.
    """

    make: Callable[[], nn.Module]
    name: str
    source: str
    options: dict[str, Any]
    sizes: Sizes
    training_sizes: Sizes
    often: bool = True
    fp32: bool = True


def torchvision_network(name: str) -> Callable[[], nn.Module]:
    make = getattr(torchvision.models, name)
    return lambda: make(num_classes=CLASSES, aux_logits=True, init_weights=False)


def timm_network(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=CLASSES, **options)


def pytorchcv_network(name: str) -> Callable[[], nn.Module]:
    return lambda: get_model(name, num_classes=CLASSES)


PLAIN, HEADS = {"auxiliary": False}, {"auxiliary": True}
REFERENCES = {
    "torchvision googlenet": Reference(
        torchvision_network("googlenet"), "googlenet", "torchvision", HEADS, SMALL, SMALL
    ),
    "torchvision inception_v3": Reference(
        torchvision_network("inception_v3"), "inception_v3", "torchvision", HEADS, LARGE, FULL
    ),
    "timm inception_v3": Reference(timm_network("inception_v3"), "inception_v3", "timm", PLAIN, LARGE, LARGE),
    "timm inception_v3 with head": Reference(
        timm_network("inception_v3", aux_logits=True), "inception_v3", "timm", HEADS, FULL, FULL, often=False
    ),
    "timm inception_v4": Reference(timm_network("inception_v4"), "inception_v4", "timm", PLAIN, LARGE, LARGE),
    "timm inception_resnet_v2": Reference(
        timm_network("inception_resnet_v2"), "inception_resnet_v2", "timm", PLAIN, LARGE, LARGE
    ),
    "pytorchcv bninception": Reference(
        pytorchcv_network("bninception"), "inception_v2", "pytorchcv", PLAIN, MEDIUM, MEDIUM, fp32=False
    ),
    "pytorchcv inceptionv3": Reference(
        pytorchcv_network("inceptionv3"), "inception_v3", "pytorchcv", PLAIN, LARGE, LARGE, often=False
    ),
    "pytorchcv inceptionv4": Reference(
        pytorchcv_network("inceptionv4"), "inception_v4", "pytorchcv", PLAIN, LARGE, LARGE, often=False
    ),
    "pytorchcv inceptionresnetv1": Reference(
        pytorchcv_network("inceptionresnetv1"), "inception_resnet_v1", "pytorchcv", PLAIN, LARGE, LARGE
    ),
    "pytorchcv inceptionresnetv2": Reference(
        pytorchcv_network("inceptionresnetv2"), "inception_resnet_v2", "pytorchcv", PLAIN, LARGE, LARGE, often=False
    ),
}


def randomised(reference: Reference) -> nn.Module:
    """Theirs in fp64, with random affine parameters and the statistics of random images, so that no layer is trivial."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = reference.make()
    make_adaptive(network)
    without_dropout(network.double())
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
            module.momentum = 1.0
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.normal_(0, 0.3, generator=generator)
    with torch.no_grad():
        network.train()(torch.randn(3, 3, *reference.training_sizes[0], generator=generator, dtype=torch.float64))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_var.mul_(torch.empty_like(module.running_var).uniform_(0.8, 1.2, generator=generator))
    return network


def make_adaptive(network: nn.Module) -> None:
    """pytorchcv's networks end in a pooling for one image size; averaging everything is the same at that size."""
    features = getattr(network, "features", None)
    if features is not None and hasattr(features, "final_pool"):
        features.final_pool = nn.AdaptiveAvgPool2d(1)
        network.in_size = None


def counterpart(reference: Reference, theirs: nn.Module) -> inception.Network:
    """Ours in fp64 with their weights, through the converter."""
    with torch.device("meta"):  # whose weights need not be drawn
        ours = inception.create_model(reference.name, CLASSES, **reference.options)
    state = to_ours(layout_for(reference.name, reference.source), ours, theirs.state_dict())
    ours.load_state_dict(state, assign=True)
    without_dropout(ours)
    return ours


def without_dropout(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def outputs_and_gradients(network: nn.Module, images: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """All logits, and the gradients of a random function of them by parameter, with that of the images as "images"."""
    network.zero_grad()
    images = images.clone().requires_grad_()
    output = network(images)
    logits = list(output) if isinstance(output, tuple) else [output]
    if hasattr(output, "aux_logits2"):  # torchvision's GoogLeNet names its heads, the second first
        logits = [output.logits, output.aux_logits1, output.aux_logits2]
    if not network.training:  # timm computes the head in evaluation too
        logits = logits[:1]
    generator = torch.Generator().manual_seed(5)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in logits)
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return [x.detach() for x in logits], gradients | {"images": images.grad}


def sensitivity(network: nn.Module, images: Tensor) -> float:
    """By how much more the logits change than the images do, both relative: what rounding grows to on its way through."""
    noise = 1e-10 * torch.randn(images.shape, generator=torch.Generator().manual_seed(9), dtype=images.dtype)
    with torch.no_grad():
        before, after = (copy.deepcopy(network)(x) for x in (images, images + noise))
    if isinstance(before, tuple):
        before, after = before[0], after[0]
    return relative(after, before) / relative(images + noise, images)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The norm of the difference as a share of the norm."""
    return ((ours - theirs).norm() / theirs.norm()).item()
