"""The crops of an image whose predictions are averaged: ten, after Krizhevsky et al. (2012), or 144, as Szegedy et al. ("Going
Deeper with Convolutions", 2015, section 7) take them. Half of them are mirror images of the others, which are not named here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.plan.plan import Boxes, EvalPlan

FIRST, MIDDLE, LAST = -1, 0, 1
CORNERS = tuple((across, down) for down in (FIRST, LAST) for across in (FIRST, LAST))
# Shorter sides that images are resized to, in sevenths of a crop's side: 256, 288, 320 and 352 for 224 pixels.
_SCALES = (8, 9, 10, 11)


@dataclass(frozen=True)
class CropPlan(EvalPlan):
    """Evaluation on one crop of each image, resized so that its shorter side has `resize` pixels.

    square: which square of the longer side is cut first (-1, 0, 1: left or top, the middle, right or bottom), None for none: the
    crop lies in the whole image; place: across and down in that, None for the whole square, which is resized straight from the
    image.
    """

    square: int | None = None
    place: tuple[int, int] | None = (MIDDLE, MIDDLE)

    @property
    def plain(self) -> bool:
        return False

    def boxes(self, epoch: int, indices: np.ndarray, sizes: np.ndarray) -> Boxes:
        if self.place is not None:
            return super().boxes(epoch, indices, sizes)
        images = np.maximum(np.asarray(sizes, np.int64), 1)
        side = np.repeat(images.min(axis=1, keepdims=True), 2, axis=1)
        return np.concatenate([_at(self.square or 0, images - side), side], axis=1).astype(np.int32)

    def views(self, boxes: Boxes, resolution: int) -> Boxes:
        if self.place is None:
            return np.tile(np.array([resolution, resolution, 0, 0], np.int32), (len(boxes), 1))
        resized = super().views(boxes, resolution)[:, :2].astype(np.int64)
        area, corner = resized, np.zeros_like(resized)
        if self.square is not None:
            area = np.repeat(resized.min(axis=1, keepdims=True), 2, axis=1)
            corner = _at(self.square, resized - area)
        across, down = (_at(place, area[:, axis] - resolution) for axis, place in enumerate(self.place))
        return np.concatenate([resized, corner + np.stack([across, down], axis=1)], axis=1).astype(np.int32)


def ten(plan: EvalPlan, resize: int) -> list[tuple[CropPlan, float]]:
    """The corners of the resized image and its middle, as torchvision's `FiveCrop` has them: a plan of the same
    images for each, with its share in their mean."""
    crop = CropPlan(plan.length, plan.global_batch, resize=resize, interpolation=plan.interpolation)
    return [(replace(crop, place=place), 1 / 5) for place in (*CORNERS, (MIDDLE, MIDDLE))]


def hundred_and_forty_four(plan: EvalPlan, sizes: Sequence[int]) -> list[tuple[CropPlan, float]]:
    """Of each of four `sizes` of the image three squares, of each its corners, its middle and the square as a whole, which is the
    same for all sizes and counts four times; as `ten`."""
    crop = CropPlan(plan.length, plan.global_batch, resize=sizes[0], interpolation=plan.interpolation)
    plans = []
    for square in (FIRST, LAST, MIDDLE):
        plans.append((replace(crop, square=square, place=None), len(sizes) / 72))
        for resize in sizes:
            places = (*CORNERS, (MIDDLE, MIDDLE))
            plans += [(replace(crop, square=square, resize=resize, place=place), 1 / 72) for place in places]
    return plans


def four_sizes(resolution: int) -> list[int]:
    """The shorter sides of the 144 crops' images for crops of that many pixels."""
    return [round(resolution * scale / 7) for scale in _SCALES]


def _at(place: int, room: np.ndarray) -> np.ndarray:
    """int64: the first, middle or last offset where there is `room` for that many, rounded as torchvision rounds."""
    return np.rint(np.asarray(room) * (place + 1) / 2).astype(np.int64)
