"""Augmentation as the device carries it out: each operation against torchvision's, in one compiled graph."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from torchvision.transforms import InterpolationMode

from engine.graphs.device_augmentation import Augment, equalized, inside, mix, mixed_cross_entropy, partner, turned
from pipelines.plan.augmentation import _RANGES, OPERATIONS, Augmentation, operation_parameters

SIZE = 64


@pytest.fixture(scope="module")
def images():
    """Two photographs, uint8 (2, 3, 64, 64)."""
    from skimage import data

    pictures = [torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in (data.astronaut(), data.coffee())]
    return torch.stack([F.resize(picture, [SIZE, SIZE], antialias=True) for picture in pictures])


def affine(images, translate=(0, 0), shear=(0.0, 0.0), center=None):
    options = {"angle": 0.0, "scale": 1.0, "interpolation": InterpolationMode.BILINEAR, "fill": [127.0] * 3}
    return F.affine(images, translate=list(translate), shear=list(shear), center=center, **options)


# What torchvision's RandAugment does for each operation at +-level, written out (level 0.3 of the strongest).
LEVEL = 0.3
REACH = _RANGES["randaugment"]
SHEAR = np.degrees(np.arctan(REACH.shear * LEVEL))
THEIRS = {
    "identity": lambda x, sign: x,
    "shear_x": lambda x, sign: affine(x, shear=(sign * SHEAR, 0.0), center=[0, 0]),
    "shear_y": lambda x, sign: affine(x, shear=(0.0, sign * SHEAR), center=[0, 0]),
    "rotate": lambda x, sign: F.rotate(x, sign * LEVEL * REACH.rotate, InterpolationMode.BILINEAR, fill=[127.0] * 3),
    "brightness": lambda x, sign: F.adjust_brightness(x, 1 + sign * REACH.enhance * LEVEL),
    "colour": lambda x, sign: F.adjust_saturation(x, 1 + sign * REACH.enhance * LEVEL),
    "contrast": lambda x, sign: F.adjust_contrast(x, 1 + sign * REACH.enhance * LEVEL),
    "sharpness": lambda x, sign: F.adjust_sharpness(x, 1 + sign * REACH.enhance * LEVEL),
    "posterize": lambda x, sign: F.posterize(x, 8 - round(REACH.posterize * LEVEL)),
    "solarize": lambda x, sign: F.solarize(x, 255 * (1 - LEVEL)),
    "autocontrast": lambda x, sign: F.autocontrast(x),
    "equalize": lambda x, sign: F.equalize(x),
}


def step(operation: str, sign: float, count: int, strength: float = LEVEL):
    arrays = operation_parameters(
        np.full(count, OPERATIONS.index(operation)), np.full(count, strength), np.full(count, sign), REACH
    )
    return {name: torch.from_numpy(array)[:, None] for name, array in arrays.items()}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("operation", THEIRS)
def test_an_operation_is_torchvisions(images, operation, sign):
    ours = Augment(fill=(127.0, 127.0, 127.0))(images, step(operation, sign, 2))
    difference = (ours - THEIRS[operation](images, sign).float()).abs()
    assert difference.mean() < 1  # theirs rounds to whole levels
    assert (difference > 4).float().mean() < 0.03  # and fills half-covered pixels at the edges another way


@pytest.mark.parametrize("operation", ["translate_x", "translate_y"])
def test_a_translation_moves_by_a_share_of_the_side(images, operation):
    strength = 8 / SIZE / REACH.translate
    ours = Augment(fill=(127.0, 127.0, 127.0))(images, step(operation, 1.0, 2, strength))
    moved = (8, 0) if operation == "translate_x" else (0, 8)
    assert (ours - affine(images, translate=moved).float()).abs().max() < 0.6


def test_equalize_is_torchvisions_on_any_histogram(images):
    flat = torch.full_like(images, 77)
    two = torch.where(images > 100, torch.full_like(images, 200), torch.full_like(images, 10))
    for pixels in (images, flat, two, images // 16):
        assert torch.equal(equalized(pixels.float()), F.equalize(pixels).float())


def test_hue_turns_as_torchvision_turns_it(images):
    for turns in (-0.2, 0.1, 0.5):
        theirs = F.adjust_hue(images.float() / 255, turns) * 255
        assert (turned(images.float(), torch.full((2,), turns)) - theirs).abs().max() < 0.01


def test_every_sample_has_its_own_operation(images):
    every = images[:1].expand(len(OPERATIONS), -1, -1, -1)
    arrays = operation_parameters(np.arange(len(OPERATIONS)), np.full(14, LEVEL), np.ones(14), REACH)
    together = Augment()(every, {name: torch.from_numpy(array)[:, None] for name, array in arrays.items()})
    for number, operation in enumerate(OPERATIONS):
        alone = Augment()(images[:1], step(operation, 1.0, 1))
        assert torch.allclose(together[number], alone[0], atol=1e-3)


def test_erased_boxes_get_the_fill(images):
    box = torch.tensor([[10.0, 20.0, 30.0, 25.0], [0.0, 0.0, 0.0, 0.0]])
    result = Augment(fill=(1.0, 2.0, 3.0))(images, {"erase": box})
    assert result[0, :, 20:25, 10:30].mean((1, 2)).tolist() == [1.0, 2.0, 3.0]
    result[0, :, 20:25, 10:30] = images[0, :, 20:25, 10:30].float()
    assert torch.equal(result, images.float())


def test_partners_change_places_and_a_last_one_stays():
    assert partner(torch.arange(7)).tolist() == [1, 0, 3, 2, 5, 4, 6]


def test_mixup_and_cutmix_mix_pixels_and_losses_alike(images):
    mixing = {
        "weight": torch.tensor([0.75, 1.0]),
        "cut": torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 32.0, 32.0]]),
        "label_weight": torch.tensor([0.75, 0.75]),
    }
    pixels = images.float()
    mixed = mix(pixels, mixing)
    assert torch.allclose(mixed[0], 0.75 * pixels[0] + 0.25 * pixels[1])
    assert torch.equal(mixed[1, :, :32, :32], pixels[0, :, :32, :32])
    assert torch.equal(mixed[1, :, 32:], pixels[1, :, 32:])
    logits, labels = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 4])
    soft = torch.tensor([[0, 0.75, 0, 0, 0.25], [0, 0.25, 0, 0, 0.75]])
    loss = torch.nn.functional.cross_entropy(logits, soft, label_smoothing=0.1)
    assert torch.allclose(mixed_cross_entropy(logits, labels, mixing, 0.1), loss, atol=1e-6)
    plain = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.allclose(mixed_cross_entropy(logits, labels, {}, 0.1), plain)


def test_a_box_takes_whole_pixels():
    mask = inside(torch.tensor([[1.0, 0.0, 3.0, 1.0]]), torch.zeros(1, 3, 2, 4))
    assert mask[0, 0].tolist() == [[False, True, True, False], [False] * 4]


def test_it_traces_to_one_graph_that_serves_every_batch(images):
    """Whatever the parameters' values, no branch is taken: a traced graph gives the same as the module."""
    augmentation = Augmentation("randaugment", colour=1.0, mixup=0.4, cutmix=1.0, erasing=0.5)

    def batch(stream):
        arrays = augmentation.parameters(stream, np.arange(8), SIZE)
        return images.repeat(4, 1, 1, 1), {name: torch.from_numpy(array) for name, array in arrays.items()}

    module = Augment()
    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=False)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    for stream in range(3):
        pixels, parameters = batch(stream)
        assert torch.allclose(compiled(pixels, parameters), module(pixels, parameters), atol=1e-3)
        assert pixels.dtype == torch.uint8
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.gpu
def test_every_operation_of_a_policy_has_a_deterministic_form_on_a_gpu():
    augmentation = Augmentation(policy="randaugment", colour=1.0, mixup=0.2, cutmix=1.0, erasing=0.5)
    decided = augmentation.parameters(1, np.arange(64), 32)
    parameters = {name: torch.from_numpy(np.ascontiguousarray(array)).cuda() for name, array in decided.items()}
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (Augment().cuda()(images, parameters) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second)
