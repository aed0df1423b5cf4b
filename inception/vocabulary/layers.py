"""The vocabulary in which all networks are written: conv, pools, branches, residual, composed with >>.

A description is data: it says what a block is made of, one line a branch, so that a page of this package reads like the
figure in the paper. Descriptions do not name their input width; `build` is told it and infers every width that follows.

    # Figure 4 of arXiv 1602.07261: Inception-A, 35 x 35 x 384 -> 35 x 35 x 384
    branches(
        avg_pool(3) >> conv(96, 1),
        conv(96, 1),
        conv(64, 1) >> conv(96, 3),
        conv(64, 1) >> conv(96, 3) >> conv(96, 3),
    )
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from inception.vocabulary.errors import NetworkError
from inception.vocabulary.modules import BranchesBlock, ConvUnit, CoveringMaxPool2d, MaxPool2d, ResidualBlock


@dataclass(frozen=True)
class Style:
    """What all layers of one network share: width multiplier, batch normalisation or none, and its epsilon."""

    width: float = 1.0
    batch_norm: bool = True
    eps: float = 1e-3

    def channels(self, count: int) -> int:
        """`count` times the width multiplier, as a multiple of eight when it is not one (what hardware likes)."""
        return count if self.width == 1.0 else max(8, round(count * self.width / 8) * 8)


class Layer(ABC):
    """A description of a part of a network."""

    def __rshift__(self, following: Layer) -> Layer:
        """`a >> b`: b reads what a gives."""
        return Chain((*steps(self), *steps(following)))

    @abstractmethod
    def build(self, channels: int, style: Style) -> tuple[nn.Module, int]:
        """Make the module for an input of `channels` channels; return it and its number of output channels."""

    @abstractmethod
    def size(self, pixels: int) -> int:
        """The height (or width) of the output for an input of `pixels`; below 1 when the input is too small."""


def steps(layer: Layer) -> tuple[Layer, ...]:
    """The layers of a chain in order; any other layer is a chain of itself."""
    return layer.parts if isinstance(layer, Chain) else (layer,)


@dataclass(frozen=True)
class Chain(Layer):
    """Layers one after the other."""

    parts: tuple[Layer, ...]

    def build(self, channels: int, style: Style) -> tuple[nn.Module, int]:
        modules = []
        for part in self.parts:
            module, channels = part.build(channels, style)
            modules.append(module)
        return nn.Sequential(*modules), channels

    def size(self, pixels: int) -> int:
        for part in self.parts:
            pixels = part.size(pixels)
        return pixels


@dataclass(frozen=True)
class Conv(Layer):
    """See `conv`."""

    channels: int
    kernel: tuple[int, int]
    stride: int
    valid: bool
    std: float | None

    @property
    def padding(self) -> tuple[int, int]:
        return (0, 0) if self.valid else (self.kernel[0] // 2, self.kernel[1] // 2)

    def build(self, channels: int, style: Style) -> tuple[nn.Module, int]:
        out = style.channels(self.channels)
        conv = nn.Conv2d(channels, out, self.kernel, self.stride, self.padding, bias=not style.batch_norm)
        if self.std is not None:
            conv.initial_std = self.std  # type: ignore[assignment]
        return ConvUnit(conv, nn.BatchNorm2d(out, eps=style.eps) if style.batch_norm else None), out

    def size(self, pixels: int) -> int:
        return min(windows(pixels, self.kernel[i], self.stride, self.padding[i]) for i in (0, 1))


@dataclass(frozen=True)
class Pool(Layer):
    """See `max_pool` and `avg_pool`."""

    kind: str
    kernel: int
    stride: int
    ceil: bool = False
    cover: bool = False
    count_padding: bool = False

    @property
    def padding(self) -> int:
        return self.kernel // 2 if self.stride == 1 else 0

    def build(self, channels: int, style: Style) -> tuple[nn.Module, int]:
        if self.cover:
            return CoveringMaxPool2d(self.kernel, self.stride), channels
        if self.kind == "max":
            return MaxPool2d(self.kernel, self.stride, self.padding, ceil_mode=self.ceil), channels
        pool = nn.AvgPool2d(self.kernel, self.stride, self.padding, count_include_pad=self.count_padding)
        return pool, channels

    def size(self, pixels: int) -> int:
        if self.cover:
            return -(-pixels // self.stride)
        if not self.ceil:
            return windows(pixels, self.kernel, self.stride, self.padding)
        return -(-(pixels - self.kernel) // self.stride) + 1 if pixels >= 1 else 0


@dataclass(frozen=True)
class ResponseNorm(Layer):
    """See `response_norm`."""

    def build(self, channels: int, style: Style) -> tuple[nn.Module, int]:
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75), channels

    def size(self, pixels: int) -> int:
        return pixels


@dataclass(frozen=True)
class Branches(Layer):
    """See `branches`."""

    paths: tuple[Layer, ...]

    def build(self, channels: int, style: Style) -> tuple[nn.Module, int]:
        built = [path.build(channels, style) for path in self.paths]
        return BranchesBlock([module for module, _ in built]), sum(out for _, out in built)

    def size(self, pixels: int) -> int:
        return min(path.size(pixels) for path in self.paths)


@dataclass(frozen=True)
class Residual(Layer):
    """See `residual`."""

    body: Layer
    scale: float
    relu: bool

    def build(self, channels: int, style: Style) -> tuple[nn.Module, int]:
        body, out = self.body.build(channels, style)
        return ResidualBlock(body, nn.Conv2d(out, channels, 1), self.scale, self.relu), channels

    def size(self, pixels: int) -> int:
        return self.body.size(pixels)


def conv(
    channels: int, kernel: int | tuple[int, int], stride: int = 1, *, valid: bool = False, std: float | None = None
) -> Layer:
    """Convolution, batch normalisation, ReLU, with `channels` outputs.

    `kernel` is a side or (height, width). `valid` is the "V" of the figures: no padding; without it the output of a
    stride of 1 is as large as the input. `std` is the initial standard deviation where it differs from the network's.
    """
    return Conv(channels, (kernel, kernel) if isinstance(kernel, int) else kernel, stride, valid, std)


def max_pool(kernel: int, stride: int = 1, *, ceil: bool = False, cover: bool = False) -> Layer:
    """Maximum pooling: of the input's size with stride 1, without padding otherwise.

    `ceil` also takes the windows that reach over the far border by less than a stride, as Caffe does; `cover` takes all
    that start inside the input, so that the output is as large as that of a convolution with padding beside it.
    """
    return Pool("max", kernel, stride, ceil=ceil, cover=cover)


def avg_pool(kernel: int, stride: int = 1, *, count_padding: bool = False) -> Layer:
    """Average pooling: of the input's size with stride 1, without padding otherwise.

    `count_padding` divides by the whole window at the borders too, as Caffe does and TensorFlow does not.
    """
    return Pool("average", kernel, stride, count_padding=count_padding)


def response_norm() -> Layer:
    """Local response normalisation over five channels, with the constants of AlexNet that GoogLeNet shares."""
    return ResponseNorm()


def branches(*paths: Layer) -> Layer:
    """Paths that read one input and are joined along the channels, in the order given."""
    return Branches(paths)


def residual(body: Layer, *, scale: float, relu: bool = True) -> Layer:
    """Input + `scale` times a linear 1x1 convolution of `body` back to the input's width, then ReLU."""
    return Residual(body, scale, relu)


def windows(pixels: int, kernel: int, stride: int, padding: int) -> int:
    """How many windows fit into `pixels` with `padding` on both sides; 0 when none does."""
    room = pixels + 2 * padding - kernel
    return room // stride + 1 if room >= 0 and pixels >= 1 else 0


def smallest_input(layer: Layer, limit: int = 1024) -> int:
    """The smallest square image, in pixels a side, that leaves at least one pixel after `layer`."""
    for pixels in range(1, limit):
        if layer.size(pixels) >= 1:
            return pixels
    raise NetworkError(f"no image below {limit} pixels is large enough for these layers")
