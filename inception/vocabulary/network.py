"""A network as data (`Design`) and the module that runs any of them (`Network`).

Each page of this package gives a `Design`: named stages in the vocabulary of `layers.py`, and what belongs to the
network as a whole. `Network` builds it for given options and defines what all networks share: the forward pass with
auxiliary heads, features and embeddings, the check of the images, and the initialisation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from inception.vocabulary.errors import NetworkError
from inception.vocabulary.layers import Chain, Layer, Style, smallest_input
from inception.vocabulary.modules import AuxiliaryHead

# The standard deviation of a unit normal distribution cut off at two standard deviations.
TRUNCATED_STD = 0.87962566103423978


class Head(Protocol):
    """Describes an auxiliary classifier; `build` makes the module for an input of `channels` channels."""

    def build(self, channels: int, num_classes: int, style: Style) -> nn.Module: ...


@dataclass(frozen=True)
class Auxiliary:
    """An auxiliary classifier of the usual form: layers, global average pooling, a linear classifier."""

    features: Layer
    std: float = 0.01

    def build(self, channels: int, num_classes: int, style: Style) -> nn.Module:
        features, out = self.features.build(channels, style)
        head = AuxiliaryHead(features, out, num_classes, smallest_input(self.features))
        head.classifier.initial_std = self.std  # type: ignore[assignment]
        return head


@dataclass(frozen=True)
class Design:
    """Everything that defines a network but the number of classes and the user's options.

    `stages` are run in order; `auxiliary` maps the name of a stage to the head that reads its output; `input_size` is
    in pixels a side; `mean` and `std` are for images scaled to 0..1; `crop_fraction` is the share of the shorter side
    that evaluation keeps; `initial_std` is the standard deviation of initial weights (None: He's, by fan-in); `embedding`
    is the width of a linear bottleneck before the classifier (0: none).
    """

    stages: Mapping[str, Layer]
    input_size: int
    dropout: float
    auxiliary: Mapping[str, Head] = field(default_factory=dict)
    auxiliary_weights: tuple[float, ...] = ()
    auxiliary_by_default: bool = True
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop_fraction: float = 0.875
    eps: float = 1e-3
    initial_std: float | None = None
    embedding: int = 0


class Network(nn.Module):
    """An Inception network built from its design.

    Attributes: name, num_classes, in_channels, input_size (pixels), smallest_size (pixels: the smallest image that
    works), mean, std, crop_fraction, num_features (channels of the last feature map), auxiliary_weights (the paper's
    weight of each auxiliary loss; empty without heads), options (JSON-able, enough to build it again with `create_model`),
    preprocessing (how the publisher of its weights shows images to it, None for fresh ones).
    """

    def __init__(
        self, name: str, design: Design, num_classes: int, *, in_channels: int, dropout: float, auxiliary: bool,
        style: Style, options: dict[str, Any],
    ) -> None:  # fmt: skip
        super().__init__()
        self.name = name
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.options = options
        self.input_size = design.input_size
        self.mean: tuple[float, ...] = design.mean
        self.std: tuple[float, ...] = design.std
        self.crop_fraction = design.crop_fraction
        self.preprocessing: Mapping[str, Any] | None = None
        self.frozen: tuple[str, ...] = ()
        self.frozen_batch_norm = False
        self.auxiliary_weights = design.auxiliary_weights if auxiliary else ()
        self.smallest_size = smallest_input(Chain(tuple(design.stages.values())))
        device = torch.get_default_device()
        with torch.device("meta"):  # so that no weight is drawn twice, here and in initialise()
            self._build(design, auxiliary, dropout, style)
        self.to_empty(device=device)
        initialise(self, design.initial_std)

    def _build(self, design: Design, auxiliary: bool, dropout: float, style: Style) -> None:
        channels = self.in_channels
        self.stages = tuple(design.stages)
        self.heads: dict[str, str] = {}
        heads: dict[str, nn.Module] = {}
        for name, stage in design.stages.items():
            module, channels = stage.build(channels, style)
            self.add_module(name, module)
            if auxiliary and name in design.auxiliary:
                self.heads[name] = f"auxiliary{len(heads) + 1}"
                heads[self.heads[name]] = design.auxiliary[name].build(channels, self.num_classes, style)
        self.num_features = channels
        self.dropout = nn.Dropout(dropout)
        self.bottleneck = bottleneck(channels, design.embedding, style) if design.embedding else None
        self.classifier = nn.Linear(design.embedding or channels, self.num_classes)
        for name, head in heads.items():
            self.add_module(name, head)

    def freeze(self, stages: Sequence[str], batch_norm: bool = False) -> None:
        """Keep the weights and batch statistics of `stages` as they are, and with `batch_norm` every batch normalisation:
        training leaves them alone."""
        self.frozen, self.frozen_batch_norm = tuple(stages), batch_norm
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode, in which what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        normalisations = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
        norms = [m for m in self.modules() if isinstance(m, normalisations)] if self.frozen_batch_norm else []
        return [*(getattr(self, name) for name in self.frozen), *norms]

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map: (N, in_channels, H, W) -> (N, num_features, h, w)."""
        self._check(images)
        x = images
        for name in self.stages:
            x = getattr(self, name)(x)
        return x

    def embed(self, images: Tensor) -> Tensor:
        """What the classifier reads, the averaged last feature map: (N, in_channels, H, W) -> (N, num_features).

        With a bottleneck (Inception-ResNet-v1) it is the bottleneck's output, (N, embedding).
        """
        return self._narrow(self.forward_features(images).mean((2, 3)))

    def _narrow(self, x: Tensor) -> Tensor:
        return x if self.bottleneck is None else self.bottleneck(x)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits (N, num_classes) of normalised images (N, in_channels, H, W).

        In training mode with auxiliary heads: (logits, auxiliary logits of the first head, of the second, ...).
        Raises NetworkError for images of the wrong shape or type, or smaller than `smallest_size`.
        """
        self._check(images)
        x = images
        auxiliary = []
        for name in self.stages:
            x = getattr(self, name)(x)
            if self.training and name in self.heads:
                auxiliary.append(getattr(self, self.heads[name])(x))
        logits = self.classifier(self._narrow(self.dropout(x.mean((2, 3)))))
        return (logits, *auxiliary) if auxiliary else logits

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise NetworkError(
                f"{self.name} takes images of shape (N, {self.in_channels}, H, W), not {tuple(images.shape)}"
                "; for another number of channels create it with in_channels"
            )
        if images.shape[2] < self.smallest_size or images.shape[3] < self.smallest_size:
            raise NetworkError(
                f"{self.name} takes images of at least {self.smallest_size} x {self.smallest_size} pixels, "
                f"not {images.shape[2]} x {images.shape[3]}; its own size is {self.input_size}"
            )
        if not images.is_floating_point():
            raise NetworkError(f"{self.name} takes normalised floating-point images, not {images.dtype}")

    def metadata(self) -> dict[str, Any]:
        """What a weights file says about its network (JSON-able), but for the names of the classes."""
        return {
            "network": self.name,
            "options": dict(self.options),
            "num_classes": self.num_classes,
            "input_size": self.input_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "crop_fraction": self.crop_fraction,
        }


def bottleneck(channels: int, embedding: int, style: Style) -> nn.Module:
    """A linear layer and its normalisation: (N, channels) -> (N, embedding)."""
    linear = nn.Linear(channels, embedding, bias=not style.batch_norm)
    return nn.Sequential(linear, nn.BatchNorm1d(embedding, eps=style.eps)) if style.batch_norm else linear


@torch.no_grad()
def initialise(network: nn.Module, std: float | None) -> None:
    """Draw all weights from torch's generator: normal distributions cut off at two standard deviations.

    The deviation is the layer's own `initial_std`, else `std`, else such that it is He's sqrt(2 / fan-in) after the cut
    (arXiv 1502.01852). Linear layers without their own use 0.01. Biases are zero, normalisations the identity.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            own = getattr(module, "initial_std", std)
            truncated_normal(module.weight, own or math.sqrt(2 / module.weight[0].numel()) / TRUNCATED_STD)
        elif isinstance(module, nn.Linear):
            truncated_normal(module.weight, getattr(module, "initial_std", 0.01))
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.reset_parameters()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.zero_()


def truncated_normal(weight: Tensor, std: float) -> None:
    """Fill a contiguous `weight` with a normal distribution of deviation `std`, cut off at 2 `std`.

    By drawing anew what falls outside (4.6% of the numbers), six times as fast as PyTorch's inverse error function.
    """
    weight.normal_(0, std)
    if weight.is_meta:
        return
    flat = weight.view(-1)
    outside = (flat.abs() > 2 * std).nonzero()[:, 0]
    while len(outside):
        again = torch.empty_like(outside, dtype=weight.dtype).normal_(0, std)
        flat[outside] = again
        outside = outside[again.abs() > 2 * std]
