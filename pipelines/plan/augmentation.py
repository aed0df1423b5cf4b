"""What augmentation does to each sample after its crop, decided here, carried out on the device by the engine.

Like boxes and flips, every number is a pure function of (seed, epoch, sample): no device owns a random generator, so a
resumed run and any number of ranks see the same images. Samples are mixed in pairs of neighbours in the epoch's order,
which is random already: partners always lie in the same micro-batch.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.plan.random_numbers import key, uniform
from pipelines.support.errors import DataError, nearest

Floats = NDArray[np.float32]
POLICIES = ("none", "randaugment", "trivialaugment")
BINS = 31  # strengths that policies tell apart, 0 to 30

# The operations of both policies, in the order of their numbers. "identity" does nothing.
OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "colour", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
_BLENDS = ("brightness", "colour", "contrast", "sharpness")


@dataclass(frozen=True)
class _Range:
    """How far the strongest level of a policy goes. shear: pixels a pixel; translate: share of the side (`pixels`: of
    that many pixels); rotate: degrees; enhance: change of a factor from 1; posterize: bits taken away."""

    shear: float
    translate: float
    rotate: float
    enhance: float
    posterize: float


_RANGES = {"randaugment": _Range(0.3, 150 / 331, 30, 0.9, 4), "trivialaugment": _Range(0.99, 32 / 224, 135, 0.99, 6)}
_ATTEMPTS = 32  # of drawing a Beta variate; at alpha 1 one in 4 billion is not drawn by then, and counts as unmixed
# Names of the random streams of one epoch.
_POLICY, _COLOUR, _MIX, _ERASE = range(4)


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images beside crop and flip.

    policy: "none", "randaugment" (Cubuk et al., 2019: `operations` random ones at `magnitude` 0 to 30) or
    "trivialaugment" (Müller and Hutter, 2021: one random operation at a random strength). colour: strength of the
    Inception networks' colour distortion (brightness, saturation, hue, contrast; after Howard, "Some Improvements on
    Deep Convolutional Neural Network Based Image Classification", 2013), 1 being their own. mixup (Zhang et al., 2017),
    cutmix (Yun et al., 2019): alpha of the Beta distribution of the weights, 0 to 1, 0 for none; with both, each sample
    gets one of them. erasing: share of samples with a box erased (Zhong et al., 2017).
    """

    policy: str = "none"
    operations: int = 2
    magnitude: int = 9
    colour: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            choices = ", ".join(POLICIES)
            raise DataError(f"unknown policy {self.policy!r}{nearest(self.policy, POLICIES)}; choose from {choices}")
        if not 1 <= self.operations <= 4 or not 0 <= self.magnitude < BINS:
            raise DataError(
                f"operations must be 1 to 4 and magnitude 0 to {BINS - 1}, not {self.operations}, {self.magnitude}"
            )
        for name in ("colour", "mixup", "cutmix", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} must be from 0 to 1, not {getattr(self, name)}")

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed with their neighbours in the order."""
        return self.mixup > 0 or self.cutmix > 0

    def parameters(self, stream: int, indices: NDArray[np.int64], resolution: int) -> dict[str, Floats]:
        """What is done to n samples of resolution x resolution pixels; `stream` is a key of seed and epoch.

        By policy, k operations a sample, one after the other: "affine" (n, k, 2, 3), from normalised output to input
        coordinates as torch.nn.functional.affine_grid takes them; "blend" (n, k, 4), factors of brightness, colour,
        contrast and sharpness, 1 for none; "posterize" (n, k), the step between levels, 1 for none; "solarize" (n, k),
        the level from which pixels are inverted, 256 for none; "autocontrast", "equalize" (n, k), 1 where done.
        By colour: "colour" (n, 5), brightness added (in 0..1), factors of saturation and contrast, hue added (in
        turns), 1 where contrast and hue change before the others. By mixing: "weight" (n,) of a sample's own pixels; "cut"
        (n, 4), left, top, right, bottom of the box that comes from its partner; "label_weight" (n,) of its own label. By
        erasing: "erase" (n, 4), a box likewise. Boxes are in pixels, empty for none.
        """
        found: dict[str, Floats] = {}
        if self.policy != "none":
            found |= self._policy_parameters(key(stream, _POLICY), indices)
        if self.colour:
            found["colour"] = self._colour(key(stream, _COLOUR), indices)
        if self.mixes:
            found |= self._mixing(key(stream, _MIX), indices, resolution)
        if self.erasing:
            found["erase"] = self._erased(key(stream, _ERASE), indices, resolution)
        return found

    def _policy_parameters(self, stream: int, indices: NDArray[np.int64]) -> dict[str, Floats]:
        count = self.operations if self.policy == "randaugment" else 1
        steps = []
        for step in range(count):
            draws = [uniform(stream, indices, 3 * step + draw) for draw in range(3)]
            operation = np.floor(draws[0] * len(OPERATIONS)).astype(np.int64)
            if self.policy == "randaugment":
                strength = np.full(len(indices), self.magnitude / (BINS - 1))
            else:
                strength = np.floor(draws[1] * BINS) / (BINS - 1)
            sign = np.where(draws[2] < 0.5, -1.0, 1.0)
            steps.append(operation_parameters(operation, strength, sign, _RANGES[self.policy]))
        return {name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]}

    def _colour(self, stream: int, indices: NDArray[np.int64]) -> Floats:
        draws = [uniform(stream, indices, draw) for draw in range(5)]
        centred = [self.colour * (2 * draw - 1) for draw in draws[:4]]
        columns = [32 / 255 * centred[0], 1 + 0.5 * centred[1], 1 + 0.5 * centred[2], 0.2 * centred[3], draws[4] < 0.5]
        return np.stack(columns, axis=1).astype(np.float32)

    def _mixing(self, stream: int, indices: NDArray[np.int64], size: int) -> dict[str, Floats]:
        count = len(indices)
        share = self.cutmix and 1.0 if not self.mixup else 0.5 if self.cutmix else 0.0
        cuts = uniform(stream, indices, 0) < share
        own = np.where(
            cuts, self._beta(key(stream, 1), indices, self.cutmix), self._beta(key(stream, 2), indices, self.mixup)
        )
        side = np.where(cuts, size * np.sqrt(1 - own), 0.0)
        box = _box(side, side, uniform(stream, indices, 3) * size, uniform(stream, indices, 4) * size, size)
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        return {
            "weight": np.where(cuts, 1.0, own).astype(np.float32),
            "cut": box.reshape(count, 4),
            "label_weight": np.where(cuts, 1 - area / size**2, own).astype(np.float32),
        }

    @staticmethod
    def _beta(stream: int, indices: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
        """Beta(alpha, alpha) variates for alpha up to 1, by Jöhnk's rejection (Metrika 8, 1964); 1 for alpha 0."""
        found = np.ones(len(indices))
        if alpha == 0:
            return found
        left = np.arange(len(indices))
        for attempt in range(_ATTEMPTS):
            if not len(left):
                break
            # In logarithms: at small alpha the powers themselves would be zero.
            x, y = (np.log(1 - uniform(stream, indices[left], 2 * attempt + draw)) / alpha for draw in range(2))
            accepted = np.logaddexp(x, y) <= 0
            found[left[accepted]] = 1 / (1 + np.exp(np.minimum(y - x, 700)))[accepted]
            left = left[~accepted]
        return found

    def _erased(self, stream: int, indices: NDArray[np.int64], size: int) -> Floats:
        """Boxes of 2% to 33% of the area and ratios 0.3 to 3.3, those of the paper; they may reach over the edge."""
        draws = [uniform(stream, indices, draw) for draw in range(5)]
        area = np.where(draws[0] < self.erasing, (0.02 + 0.31 * draws[1]) * size**2, 0.0)
        ratio = np.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * draws[2])
        return _box(np.sqrt(area * ratio), np.sqrt(area / ratio), draws[3] * size, draws[4] * size, size)


def operation_parameters(
    operation: NDArray[np.int64], strength: NDArray[np.float64], sign: NDArray[np.float64], reach: _Range
) -> dict[str, Floats]:
    """One operation for each of n samples: its number in `OPERATIONS`, strength 0 to 1, and sign, as the arrays of
    `Augmentation.parameters` without their k."""

    def where(name: str, value, otherwise):
        return np.where(operation == OPERATIONS.index(name), value, otherwise)

    level = strength * sign
    angle = np.radians(where("rotate", reach.rotate * level, 0.0))
    shear_x, shear_y = where("shear_x", reach.shear * level, 0.0), where("shear_y", reach.shear * level, 0.0)
    # A shear leaves the upper left corner where it is: what the linear part moves it by is moved back. Translations
    # count from side to side, which is 2 in normalised coordinates.
    move_x = shear_x - where("translate_x", 2 * reach.translate * level, 0.0)
    move_y = shear_y - where("translate_y", 2 * reach.translate * level, 0.0)
    rows = [[np.cos(angle), shear_x - np.sin(angle), move_x], [shear_y + np.sin(angle), np.cos(angle), move_y]]
    bits = np.rint(reach.posterize * strength)
    return {
        "affine": np.stack([np.stack(row, axis=1) for row in rows], axis=1).astype(np.float32),
        "blend": np.stack([where(name, 1 + reach.enhance * level, 1.0) for name in _BLENDS], axis=1).astype(np.float32),
        "posterize": where("posterize", 2.0**bits, 1.0).astype(np.float32),
        "solarize": where("solarize", 255 * (1 - strength), 256.0).astype(np.float32),
        "autocontrast": where("autocontrast", 1.0, 0.0).astype(np.float32),
        "equalize": where("equalize", 1.0, 0.0).astype(np.float32),
    }


def _box(width, height, x, y, size: int) -> Floats:
    """float32 (n, 4): whole pixels left, top, right, bottom of boxes around (x, y), cut off at the image's edges."""
    edges = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    return np.clip(np.rint(edges), 0, size).astype(np.float32)
