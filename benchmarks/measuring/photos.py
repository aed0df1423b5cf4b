"""Images to measure with: photo-like ones of ImageNet's usual size, and gradients that tell where they were cropped."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from benchmarks.measuring.limits import photo_like_jpeg
from pipelines import Dataset

WIDTH, HEIGHT = 500, 375  # the most common size in ImageNet
_CLASSES = 4


def write_photos(folder: Path, count: int, distinct: int = 16, quality: int = 85) -> Path:
    """`count` JPEGs under folder/train and a few under folder/val, in class folders. `distinct` of them differ: decoders
    have no memory, so that repeating pictures saves time in making them and changes nothing in reading them."""
    pictures = [photo_like_jpeg(WIDTH, HEIGHT, quality, seed) for seed in range(min(count, distinct))]
    return _write(folder, [pictures[number % len(pictures)] for number in range(count)])


def write_gradients(folder: Path, count: int) -> Path:
    """`count` JPEGs whose red grows from left to right and whose green grows from top to bottom."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, WIDTH)[None, :]
    pixels[:, :, 1] = np.linspace(0, 255, HEIGHT)[:, None]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return _write(folder, [file.getvalue()] * count)


def _write(folder: Path, pictures: list[bytes]) -> Path:
    for split, chosen in (("train", pictures), ("val", pictures[:_CLASSES])):
        for number, picture in enumerate(chosen):
            path = folder / split / f"class{number % _CLASSES}" / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
    return folder


def write_shards(split: Path, folder: Path, count: int) -> list[Path]:
    """The images of a folder of class folders as `count` tar shards in WebDataset's layout, classes mixed."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.tar" for number in range(count)]
    if all(path.exists() for path in paths):
        return paths
    classes = {name.name: number for number, name in enumerate(sorted(split.iterdir()))}
    images = sorted(split.rglob("*.jpg"), key=lambda path: path.name)
    for number, path in enumerate(paths):
        with tarfile.open(path, "w") as tar:
            for image in images[number::count]:
                _add(tar, f"{image.stem}.jpg", image.read_bytes())
                _add(tar, f"{image.stem}.cls", str(classes[image.parent.name]).encode())
    return paths


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def export_folder(dataset: Dataset, folder: Path) -> None:
    """Writes every image of `dataset`, as encoded, to folder/<split>/<class>/, for peers that read nothing else."""
    indices = np.arange(len(dataset))
    for index, label in zip(indices, dataset.labels(indices)):
        path = folder / dataset.split / dataset.classes[label] / f"{index:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dataset.read(int(index)).tobytes())


def recovered_crops(images: Tensor) -> np.ndarray:
    """Where crops of `write_gradients` came from: float (n, 3), each crop's share of the area, width over height in
    pixels, and whether it is mirrored. `images`: uint8 (n, 3, H, W)."""
    pixels = images.permute(0, 2, 3, 1).numpy().astype(float) / 255
    side = pixels.shape[1]
    # The ends of a fitted line, and not single pixels, so that the codec's noise averages out.
    steps = np.arange(side) - (side - 1) / 2
    across, down = pixels[..., 0].mean(axis=1), pixels[..., 1].mean(axis=2)
    width = (across * steps).sum(axis=1) / (steps**2).sum() * side
    height = (down * steps).sum(axis=1) / (steps**2).sum() * side
    ratio = np.abs(width) * WIDTH / np.maximum(np.abs(height) * HEIGHT, 1e-9)
    return np.stack([np.abs(width * height), ratio, width < 0], axis=1)
