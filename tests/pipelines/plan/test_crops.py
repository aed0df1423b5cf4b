"""Ten crops are the five of torchvision, to the bit, and their mirror images; 144 are those of the GoogLeNet paper, section 7."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from pipelines import EvalPlan
from pipelines.decoding.decode import crop_resize
from pipelines.plan.crops import four_sizes, hundred_and_forty_four, ten

SIZES = [(97, 61), (60, 90), (64, 64), (33, 120)]


def image_of(width: int, height: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(width)
    coarse = torch.randint(0, 256, (3, height // 5 + 1, width // 5 + 1), dtype=torch.uint8, generator=generator)
    return F.resize(coarse, [height, width], antialias=True)


def crop_of(plan, image: torch.Tensor, size: int) -> torch.Tensor:
    first, displayed = np.zeros(1, np.int64), np.array([[image.shape[2], image.shape[1]]], np.int32)
    boxes = plan.boxes(0, first, displayed)
    return crop_resize(image, boxes[0].tolist(), size, view=plan.views(boxes, size)[0].tolist())


@pytest.mark.parametrize("size", SIZES)
def test_ten_crops_are_torchvisions_five(size):
    image = image_of(*size)
    expected = F.five_crop(F.resize(image, 36, antialias=True), [32, 32])
    found = [crop_of(plan, image, 32) for plan, share in ten(EvalPlan(1, 1), 36)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_the_144_crops_are_those_of_the_paper(size):
    image, found = image_of(*size), hundred_and_forty_four(EvalPlan(1, 1), [32, 36, 40, 44])
    ours = [(crop_of(plan, image, 28), share) for plan, share in found]
    assert sum(share for _, share in ours) == pytest.approx(1)
    expected = []
    for shorter in (32, 36, 40, 44):
        resized = F.resize(image, shorter, antialias=True)
        height, width = resized.shape[1:]
        for place in (0, 0.5, 1):
            top, left = (round(place * (side - shorter)) for side in (height, width))
            expected += F.five_crop(F.crop(resized, top, left, shorter, shorter), [28, 28])
    for (
        crop
    ) in expected:  # 60, and the 3 whole squares, each with its mirror image, of which the squares count four times
        assert any(torch.equal(crop, own) and share == 1 / 72 for own, share in ours)
    squares = [own for own, share in ours if share == 4 / 72]
    assert (len(ours), len(squares)) == (63, 3)
    side = min(size)
    for place, square in zip((0, 1, 0.5), squares):
        left, top = (round(place * (length - side)) for length in size)
        whole = F.crop(image, top, left, side, side)
        assert torch.equal(square, F.resize(whole, [28, 28], antialias=True))


def test_the_papers_sizes():
    assert four_sizes(224) == [256, 288, 320, 352]
    assert four_sizes(299) == [342, 384, 427, 470]
