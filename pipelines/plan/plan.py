"""The plan: which samples form a batch, which box of each is cut out, and which are mirrored.

Every decision is a pure function of (seed, epoch, sample). A backend only carries decisions out, so that all backends,
any number of ranks, and a resumed run see the same data; nothing here keeps state or knows about ranks.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.plan.augmentation import Augmentation, Floats
from pipelines.plan.balance import Balance
from pipelines.plan.random_numbers import key, permute, uniform, unpermute
from pipelines.support.errors import DataError, nearest

_SHUFFLES = ("full", "block", "none")
# A block shuffle reads runs of neighbouring samples and mixes many runs: storage sees sequential reads of megabytes,
# and a batch still draws from every class when samples are stored class by class.
BLOCK = 64  # samples that stay together
WINDOW = 256  # blocks whose samples are mixed
_ATTEMPTS = 10
# How boxes are resized, always antialiased. "random" takes either, as timm does in training.
_INTERPOLATIONS = ("bilinear", "bicubic")
# Names of the random streams of one epoch.
_ORDER, _BLOCKS, _BOX, _FLIP, _AUGMENT, _FILTER, _CLASSES = range(7)

Array = NDArray[np.int64]
Boxes = NDArray[np.int32]


@dataclass(frozen=True)
class _Plan:
    """What training and evaluation share: the epoch is cut into global batches of consecutive positions."""

    length: int
    global_batch: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise DataError("the dataset has no samples")
        if self.global_batch < 1:
            raise DataError(f"the global batch must hold at least 1 sample, not {self.global_batch}")

    @property
    def batches(self) -> int:
        """Global batches an epoch."""
        return -(-self.length // self.global_batch)

    @property
    def samples(self) -> int:
        """Positions an epoch hands out."""
        return min(self.batches * self.global_batch, self.length)

    def span(self, batch: int) -> tuple[int, int]:
        """First position of a global batch and the one after its last."""
        if not 0 <= batch < self.batches:
            raise IndexError(f"global batch {batch} is outside an epoch of {self.batches}")
        return batch * self.global_batch, min((batch + 1) * self.global_batch, self.samples)

    def indices(self, epoch: int, batch: int) -> Array:
        """int64 (global batch,): the samples of one global batch, in order."""
        return self.order(epoch, np.arange(*self.span(batch)))

    def order(self, epoch: int, positions: Array) -> Array:
        """int64 (n,): the sample at each position (0..length-1) of an epoch."""
        raise NotImplementedError

    def draws(self, epoch: int, positions: Array, indices: Array) -> Array:
        """int64 (n,): what the random decisions about the samples `indices` at `positions` count by, in their place: other
        numbers where a sample comes again in an epoch."""
        return indices

    def views(self, boxes: Boxes, resolution: int) -> Boxes:
        """int32 (n, 4): width and height that each box is resized to, and left and top of the square of `resolution` pixels in
        that which is shown: all of it."""
        return np.tile(np.array([resolution, resolution, 0, 0], np.int32), (len(boxes), 1))


@dataclass(frozen=True)
class TrainPlan(_Plan):
    """Training: every sample once an epoch in a new order, cropped at random (Szegedy et al., "Going Deeper with
    Convolutions", 2015, section 6) and mirrored at random.

    scale: share of the image's area that a crop covers; ratio: its width over its height; flip: share of mirrored
    samples. interpolation: of the resize, "bilinear", "bicubic", or "random" for either of each sample. shuffle: "full";
    "block" (blocks of `BLOCK` neighbours mixed in windows of `WINDOW` blocks, for storage that is slow at random reads);
    "none". drop_last: leave out the tail that fills no global batch. augmentation:
    what is done beside crop and flip. balance: draws every class equally often, in place of every sample once.
    """

    seed: int = 0
    shuffle: str = "full"
    interpolation: str = "bilinear"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    drop_last: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    balance: Balance | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shuffle not in _SHUFFLES:
            choices = ", ".join(_SHUFFLES)
            raise DataError(
                f"unknown shuffle {self.shuffle!r}{nearest(self.shuffle, _SHUFFLES)}; choose from {choices}"
            )
        check_interpolation(self.interpolation, (*_INTERPOLATIONS, "random"))
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise DataError(f"scale must be (least, most) with 0 < least <= most <= 1, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise DataError(f"ratio must be (least, most) with 0 < least <= most, not {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise DataError(f"flip is a probability between 0 and 1, not {self.flip}")
        if self.augmentation.mixes and not self.drop_last:
            raise DataError("mixup and cutmix need whole global batches: set drop_last")
        if self.drop_last and self.global_batch > self.length:
            raise DataError(
                f"the global batch of {self.global_batch} is larger than the dataset of {self.length} samples; lower it"
            )

    @property
    def batches(self) -> int:
        return self.length // self.global_batch if self.drop_last else super().batches

    def order(self, epoch: int, positions: Array) -> Array:
        if self.balance is not None:
            return self.balance.samples(key(self.seed, _CLASSES), epoch, self._places(epoch, positions))
        if self.shuffle == "none":
            return np.array(positions, np.int64)
        if self.shuffle == "full":
            return self._places(epoch, positions)
        return self._block_order(epoch, np.asarray(positions, np.int64))

    def _places(self, epoch: int, positions: Array) -> Array:
        return permute(positions, self.length, key(self.seed, epoch, _ORDER))

    def draws(self, epoch: int, positions: Array, indices: Array) -> Array:
        if self.balance is None:
            return indices
        return indices + self.length * self.balance.begun_anew(epoch, self._places(epoch, positions))

    def augmentations(self, epoch: int, indices: Array, resolution: int) -> dict[str, Floats]:
        """What is done to samples of resolution x resolution pixels: `Augmentation.parameters`, empty for nothing."""
        return self.augmentation.parameters(key(self.seed, epoch, _AUGMENT), np.asarray(indices), resolution)

    def _block_order(self, epoch: int, positions: Array) -> Array:
        """Permute inside the window first, then send the blocks of the windows to their place in storage."""
        window_size = BLOCK * WINDOW
        mixed = np.empty_like(positions)
        windows = positions // window_size
        for window in np.unique(windows):
            here = windows == window
            start = int(window) * window_size
            size = min(window_size, self.length - start)
            mixed[here] = start + permute(positions[here] - start, size, key(self.seed, epoch, _ORDER, int(window)))
        blocks = -(-self.length // BLOCK)
        blocks_key = key(self.seed, epoch, _BLOCKS)
        # The last block in storage may be short; wherever it comes in the order, what follows it moves up.
        missing = blocks * BLOCK - self.length
        short = int(unpermute(np.array([blocks - 1]), blocks, blocks_key)[0])
        mixed = np.where(mixed >= (short + 1) * BLOCK - missing, mixed + missing, mixed)
        return permute(mixed // BLOCK, blocks, blocks_key) * BLOCK + mixed % BLOCK

    def flips(self, epoch: int, indices: Array) -> NDArray[np.bool_]:
        """bool (n,): which samples are mirrored left to right."""
        return uniform(key(self.seed, epoch, _FLIP), np.asarray(indices), 0) < self.flip

    @property
    def plain(self) -> bool:
        """Whether all is bilinear, and shows its box and no more."""
        return self.interpolation == "bilinear"

    def bicubic(self, epoch: int, indices: Array) -> NDArray[np.bool_]:
        """bool (n,): which samples are resized bicubically, the others bilinearly."""
        if self.interpolation == "random":
            return uniform(key(self.seed, epoch, _FILTER), np.asarray(indices), 0) < 0.5
        return np.full(len(indices), self.interpolation == "bicubic")

    def boxes(self, epoch: int, indices: Array, sizes: NDArray[np.int32]) -> Boxes:
        """int32 (n, 4): left, top, width, height in displayed pixels, for images of `sizes` (n, 2) = width, height.

        The distribution of torchvision's RandomResizedCrop: area uniform in `scale`, ratio log-uniform in `ratio`, ten
        attempts to fit, else the largest centred box within the ratios.
        """
        stream, indices = key(self.seed, epoch, _BOX), np.asarray(indices)
        images = np.maximum(np.asarray(sizes, np.int64), 1)  # an unreadable sample has no size; it is never cut
        boxes = self._centred(images)
        open_ = np.arange(len(indices))
        for attempt in range(_ATTEMPTS):
            if not open_.size:
                break
            draws = [uniform(stream, indices[open_], 4 * attempt + draw) for draw in range(4)]
            drawn, fits = self._draw(images[open_], draws)
            boxes[open_[fits]] = drawn[fits]
            open_ = open_[~fits]
        return boxes.astype(np.int32)

    def _draw(self, images: Array, draws: list[NDArray[np.float64]]) -> tuple[Array, NDArray[np.bool_]]:
        width, height = images.T
        area = width * height * (self.scale[0] + (self.scale[1] - self.scale[0]) * draws[0])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = np.exp(low + (high - low) * draws[1])
        w = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        h = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        left = np.floor(draws[2] * (width - w + 1)).astype(np.int64)
        top = np.floor(draws[3] * (height - h + 1)).astype(np.int64)
        return np.stack([left, top, w, h], axis=1), fits

    def _centred(self, images: Array) -> Array:
        width, height = images.T
        w = np.minimum(width, np.maximum(np.rint(height * self.ratio[1]), 1)).astype(np.int64)
        h = np.minimum(height, np.maximum(np.rint(width / self.ratio[0]), 1)).astype(np.int64)
        return np.stack([(width - w) // 2, (height - h) // 2, w, h], axis=1)


@dataclass(frozen=True)
class EvalPlan(_Plan):
    """Evaluation: every sample once, in the stored order, and of each the centre.

    That is the centred square of `crop_fraction` of the shorter side, resized; or, with `resize`, the square in the middle of
    the whole image, resized before so that its shorter side has that many pixels: what torchvision's Resize and CenterCrop,
    and timm's, do to an image that Pillow read, with their rounding. interpolation: of the resize, "bilinear" or "bicubic".
    """

    crop_fraction: float = 0.875
    resize: int = 0
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interpolation(self.interpolation, _INTERPOLATIONS)
        if not 0 < self.crop_fraction <= 1:
            raise DataError(f"crop_fraction must be above 0 and at most 1, not {self.crop_fraction}")
        if self.resize < 0:
            raise DataError(f"resize must be at least 1 pixel, or 0 to cut first, not {self.resize}")

    @property
    def plain(self) -> bool:
        """Whether all is bilinear, and shows its box and no more."""
        return self.interpolation == "bilinear" and not self.resize

    def order(self, epoch: int, positions: Array) -> Array:
        return np.array(positions, np.int64)

    def flips(self, epoch: int, indices: Array) -> NDArray[np.bool_]:
        """bool (n,): none."""
        return np.zeros(len(indices), np.bool_)

    def bicubic(self, epoch: int, indices: Array) -> NDArray[np.bool_]:
        """bool (n,): which samples are resized bicubically, the others bilinearly."""
        return np.full(len(indices), self.interpolation == "bicubic")

    def boxes(self, epoch: int, indices: Array, sizes: NDArray[np.int32]) -> Boxes:
        """int32 (n, 4): left, top, width, height in displayed pixels, for images of `sizes` (n, 2) = width, height."""
        images = np.maximum(np.asarray(sizes, np.int64), 1)
        if self.resize:
            return np.concatenate([np.zeros_like(images), images], axis=1).astype(np.int32)
        side = np.maximum(np.rint(self.crop_fraction * images.min(axis=1)), 1).astype(np.int64)
        corner = (images - side[:, None]) // 2
        return np.concatenate([corner, side[:, None], side[:, None]], axis=1).astype(np.int32)

    def views(self, boxes: Boxes, resolution: int) -> Boxes:
        if not self.resize:
            return super().views(boxes, resolution)
        if self.resize < resolution:
            raise DataError(
                f"a square of {resolution} pixels does not fit into images whose shorter side is resized to {self.resize}"
            )
        images = boxes[:, 2:].astype(np.int64)
        shorter = images.min(axis=1, keepdims=True)
        resized = np.where(images == shorter, self.resize, (self.resize * images / shorter).astype(np.int64))
        corner = np.rint((resized - resolution) / 2).astype(np.int64)
        return np.concatenate([resized, corner], axis=1).astype(np.int32)


@dataclass(frozen=True)
class SpreadPlan(EvalPlan):
    """Evaluation in an order in which the first samples, however many, stand for all; the same every time."""

    def order(self, epoch: int, positions: Array) -> Array:
        return permute(positions, self.length, key(0, 0, _ORDER))


def check_interpolation(wanted: str, known: tuple[str, ...]) -> None:
    """DataError when that is none of those."""
    if wanted not in known:
        raise DataError(f"unknown interpolation {wanted!r}{nearest(wanted, known)}; choose from {', '.join(known)}")


Plan = TrainPlan | EvalPlan
