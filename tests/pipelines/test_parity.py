"""Every backend shows the network the same pixels: compared one by one with Pillow's, in training and evaluation."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines import EvalPlan, TrainPlan, build_loader, open_dataset


def reference(name: str, box, flip: bool, size: int) -> np.ndarray:
    """Pillow's crop and bilinear resize of an image turned upright."""
    left, top, width, height = box.tolist()
    image = ImageOps.exif_transpose(Image.open(name)).convert("RGB").crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(ImageOps.mirror(image) if flip else image, np.float64)


@pytest.mark.parametrize("size", [224, 299])
@pytest.mark.parametrize("kind", ["train", "eval"])
def test_pixels_are_pillows(photo_set, backend, kind, size):
    dataset = open_dataset(photo_set, "train", progress=False)
    plan = TrainPlan(len(dataset), 16, seed=1, drop_last=False) if kind == "train" else EvalPlan(len(dataset), 16)
    ratios = []
    with build_loader(dataset, plan, backend, batch_size=16, resolution=size, workers=2) as loader:
        for batch in loader:
            indices = batch.indices.numpy()
            boxes, flips = plan.boxes(0, indices, dataset.sizes(indices)), plan.flips(0, indices)
            for slot, index in enumerate(indices.tolist()):
                ours = batch.images[slot].permute(1, 2, 0).numpy()
                error = np.mean((ours - reference(dataset.name(index), boxes[slot], flips[slot], size)) ** 2)
                ratios.append(10 * np.log10(255**2 / max(error, 1e-3)))
    assert len(ratios) == len(dataset)
    assert np.median(ratios) >= 50
    assert min(ratios) >= 40
