"""Carries out the plan's augmentation on the device: RandAugment and TrivialAugment, colour distortion, erasing, mixing.

Every decision comes with the batch as a number (pipelines.plan.augmentation); nothing here is random, and nothing depends
on a tensor's values, so that torch.compile makes one graph of it. A sample that an operation is not meant for gets
that operation's neutral parameter.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GRAY = (0.2989, 0.587, 0.114)  # ITU-R BT.601 luma, as torchvision weighs it


class Augment(nn.Module):
    """Images of a batch as the plan wants them. Pixels count from 0 to 255 throughout."""

    fill: Tensor
    gray: Tensor
    smooth: Tensor

    def __init__(self, fill: tuple[float, float, float] = (127.5, 127.5, 127.5)):
        """fill: the colour of erased boxes and of what lies outside a moved image."""
        super().__init__()
        self.register_buffer("fill", torch.tensor(fill).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("gray", torch.tensor(_GRAY).view(1, 3, 1, 1), persistent=False)
        smooth = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13
        self.register_buffer("smooth", smooth.expand(3, 1, 3, 3).clone(), persistent=False)

    def forward(self, images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """(N, 3, H, W) uint8 or float 0..255 -> float32 0..255, by a batch's `augmentation`."""
        pixels = images.float()
        if "affine" in parameters:
            for step in range(parameters["affine"].shape[1]):
                pixels = self._operate(pixels, {name: parameters[name][:, step] for name in _STEP})
        if "colour" in parameters:
            pixels = self._distort(pixels, parameters["colour"])
        if "erase" in parameters:
            pixels = torch.where(inside(parameters["erase"], pixels), self.fill, pixels)
        if "weight" in parameters:
            pixels = mix(pixels, parameters)
        return pixels

    def _operate(self, pixels: Tensor, step: dict[str, Tensor]) -> Tensor:
        """One operation of a policy on each sample."""
        pixels = self._moved(pixels, step["affine"])
        brightness, colour, contrast, sharpness = step["blend"].unbind(1)
        pixels = blend(torch.zeros_like(pixels), pixels, brightness)
        pixels = blend(self._luma(pixels), pixels, colour)
        pixels = blend(self._luma(pixels).mean((1, 2, 3), keepdim=True), pixels, contrast)
        pixels = blend(self._smoothed(pixels), pixels, sharpness)
        every = _column(step["posterize"])
        pixels = torch.where(every > 1, torch.floor(pixels / every) * every, pixels)
        pixels = torch.where(pixels >= _column(step["solarize"]), 255 - pixels, pixels)
        pixels = torch.where(_column(step["autocontrast"]) > 0, stretched(pixels), pixels)
        return torch.where(_column(step["equalize"]) > 0, equalized(pixels), pixels)

    def _moved(self, pixels: Tensor, affine: Tensor) -> Tensor:
        grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
        # Sampled around the fill, so that the zeros outside the image become the fill.
        return F.grid_sample(pixels - self.fill, grid, mode="bilinear", align_corners=False) + self.fill

    def _luma(self, pixels: Tensor) -> Tensor:
        return (pixels * self.gray).sum(1, keepdim=True)

    def _smoothed(self, pixels: Tensor) -> Tensor:
        """Blurred by 3 x 3 pixels, but for the outermost, which stay."""
        inner = F.conv2d(pixels, self.smooth, groups=3)
        border = torch.ones_like(pixels[:1, :1, 1:-1, 1:-1])
        return torch.where(F.pad(border, (1, 1, 1, 1)) > 0, F.pad(inner, (1, 1, 1, 1)), pixels)

    def _distort(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """The colour distortion of the Inception papers, in one of two orders."""
        added, saturation, contrast, hue, late = colour.unbind(1)

        def light(pixels: Tensor) -> Tensor:
            pixels = (pixels + 255 * _column(added)).clamp(0, 255)
            return blend(self._luma(pixels), pixels, saturation)

        def tone(pixels: Tensor) -> Tensor:
            pixels = blend(self._luma(pixels).mean((1, 2, 3), keepdim=True), pixels, contrast)
            return turned(pixels, hue)

        return torch.where(_column(late) > 0, light(tone(pixels)), tone(light(pixels)))


_STEP = ("affine", "blend", "posterize", "solarize", "autocontrast", "equalize")


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def blend(other: Tensor, pixels: Tensor, factor: Tensor) -> Tensor:
    """factor 1: the pixels; 0: `other`; above 1: away from it. factor: (N,)."""
    return (other + _column(factor) * (pixels - other)).clamp(0, 255)


def inside(boxes: Tensor, pixels: Tensor) -> Tensor:
    """bool (N, 1, H, W): the pixels in boxes (N, 4) of left, top, right, bottom; right and bottom are outside."""
    left, top, right, bottom = (_column(edge) for edge in boxes.unbind(1))
    x = torch.arange(pixels.shape[3], device=pixels.device).view(1, 1, 1, -1)
    y = torch.arange(pixels.shape[2], device=pixels.device).view(1, 1, -1, 1)
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


def stretched(pixels: Tensor) -> Tensor:
    """Each channel's darkest and brightest pixel moved to 0 and 255; a channel of one value stays."""
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    return torch.where(high > low, (pixels - low) * (255 / (high - low).clamp(min=1e-3)), pixels)


def equalized(pixels: Tensor) -> Tensor:
    """Each channel's histogram made even, by the cumulative counts of Pillow's ImageOps.equalize."""
    levels = pixels.round().long().flatten(2)
    # Whole numbers: of floats, a GPU has no cumulative sum that is the same every time.
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=pixels.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    seen = counts > 0
    brightest = torch.where(seen, torch.arange(256, device=pixels.device), -1).amax(2, keepdim=True)
    step = torch.floor((levels.shape[2] - counts.gather(2, brightest)) / 255)
    before = (counts.cumsum(2) - counts).float()
    table = torch.floor((before + torch.floor(step / 2)) / step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step > 0, table, torch.arange(256.0, device=pixels.device))
    return table.gather(2, levels).view_as(pixels)


def turned(pixels: Tensor, turns: Tensor) -> Tensor:
    """Hues moved around the colour circle by `turns` (N,), by way of hue, saturation and value (HSV)."""
    red, green, blue = pixels.unbind(1)
    value, low = pixels.amax(1), pixels.amin(1)
    chroma = value - low
    safe = chroma.clamp(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = torch.where(chroma > 0, hue / 6, torch.zeros_like(hue)) + turns.view(-1, 1, 1)
    # Each channel is the value less the chroma, but for a window of hues around its own (Smith, SIGGRAPH 1978).
    offsets = torch.tensor([5.0, 3.0, 1.0], device=pixels.device).view(1, 3, 1, 1)
    place = (offsets + 6 * hue.unsqueeze(1)) % 6
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(place, 4 - place).clamp(0, 1)


def partner(values: Tensor) -> Tensor:
    """Each sample's neighbour: slots 0 and 1 change places, 2 and 3, and so on; a last one without a neighbour stays."""
    count = values.shape[0]
    places = torch.arange(count, device=values.device)
    return values[(places ^ 1).clamp(max=count - 1)]


def mix(pixels: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """mixup and cutmix: each sample with its `partner`, by "weight" and "cut" of a batch's `augmentation`."""
    others = partner(pixels)
    mixed = others + _column(parameters["weight"]) * (pixels - others)
    return torch.where(inside(parameters["cut"], pixels), others, mixed)


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, parameters: dict[str, Tensor], label_smoothing: float
) -> Tensor:
    """The mean loss (scalar) of logits (N, classes) against labels (N,), shared with each partner's as pixels were."""
    own = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    if "label_weight" not in parameters:
        return own.mean()
    other = F.cross_entropy(logits, partner(labels), reduction="none", label_smoothing=label_smoothing)
    return (other + parameters["label_weight"] * (own - other)).mean()
