"""Images to measure with: photo-like ones of ImageNet's usual size, and gradients that tell where they were cropped."""

import io
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from benchmarks.measuring.command_line import BenchmarkError
from benchmarks.measuring.machine import ROOT
from benchmarks.measuring.processes import finished
from pipelines import Dataset
from pipelines.support.cache import user_cache
from pipelines.support.cores import usable_cores
from pipelines.support.locks import machine_lock

WIDTH, HEIGHT = 500, 375  # the most common size in ImageNet
# Batches that a loader reads in a pass at least; and for each core, since a loader with a worker a core makes two batches
# a worker before they are asked for, which do not count.
BATCHES, _BATCHES_A_CORE = 64, 6
_CLASSES = 4
_DISTINCT = 16
_SHARD = "8M"


def shared_photos(batch: int, quality: int, say: Callable[[str], Any]) -> Path:
    """A folder of photos for at least 64 batches of so many images, which all benchmarks and ranks of a machine share: it
    stays in the user's cache. Raises BenchmarkError where that cannot be written."""
    least = max(BATCHES, _BATCHES_A_CORE * usable_cores()) * batch
    count = 1 << (least - 1).bit_length()  # few sizes are shared by many
    folder = user_cache() / f"photos-{WIDTH}x{HEIGHT}-{quality}-{count}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with machine_lock(folder / "lock", announce=True):
            if not (folder / "complete").exists():
                say(f"writing {count:,} photos to {folder}, once ...")
                write_photos(folder / "images", count, quality)
                (folder / "complete").touch()
    except OSError as error:
        words = f"photos cannot be written to {folder} ({error.strerror}): name a dataset with --data"
        raise BenchmarkError(words) from None
    return folder / "images"


def write_photos(folder: Path, count: int, quality: int = 85) -> Path:
    """`count` JPEGs under folder/train and a few under folder/val, in class folders. Sixteen of them differ: decoders have no
    memory, so that repeating pictures saves time in making them and changes nothing in reading them."""
    distinct = [photo_like_jpeg(WIDTH, HEIGHT, quality, seed) for seed in range(min(count, _DISTINCT))]
    return write_folders(folder, distinct, count)


def write_gradients(folder: Path, count: int) -> Path:
    """`count` JPEGs whose red grows from left to right and whose green grows from top to bottom."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, WIDTH)[None, :]
    pixels[:, :, 1] = np.linspace(0, 255, HEIGHT)[:, None]
    return write_folders(folder, [jpeg(pixels, quality=95, subsampling=0)], count)


def write_folders(folder: Path, pictures: Sequence[bytes], count: int, classes: int = _CLASSES) -> Path:
    """`count` of the pictures under folder/train and one a class under folder/val, in class folders."""
    for split, images in (("train", count), ("val", classes)):
        for label in range(classes):
            (folder / split / f"class{label}").mkdir(parents=True, exist_ok=True)
        for number in range(images):
            path = folder / split / f"class{number % classes}" / f"{number:06d}.jpg"
            path.write_bytes(pictures[number % len(pictures)])
    return folder


def write_shards(split: Path, folder: Path, count: int) -> list[Path]:
    """The images of a folder of class folders as `count` tar shards in WebDataset's layout, classes mixed."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"train-{number:06d}.tar" for number in range(count)]
    classes = {name.name: number for number, name in enumerate(sorted(split.iterdir()))}
    images = sorted(split.rglob("*.jpg"), key=lambda path: path.name)
    for number, path in enumerate(paths):
        with tarfile.open(path, "w") as tar:
            for image in images[number::count]:
                label = str(classes[image.parent.name]).encode()
                for kind, content in (("jpg", image.read_bytes()), ("cls", label)):
                    entry = tarfile.TarInfo(f"{image.stem}.{kind}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return paths


def photo_like_jpeg(width: int, height: int, quality: int = 85, seed: int = 0) -> bytes:
    """A JPEG of noise whose amplitude falls with frequency as in photographs; the same bytes for the same arguments."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128.0)
    for octave in range(8):
        side = 2 ** (octave + 1)
        noise = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pixels += (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), float) - 128) / 1.3**octave / 1.5
    return jpeg(pixels.clip(0, 255).astype(np.uint8), quality=quality)


def jpeg(pixels: np.ndarray, **settings: Any) -> bytes:
    """uint8 pixels (H, W, 3) as a JPEG, by Pillow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **settings)
    return file.getvalue()


def prepare_shards(photos: Path, output: Path, *options: Any) -> float:
    """Seconds that `pipelines/prepare.py` takes from its start until class folders lie in `output` as shards, made anew. As many
    shards as keep several workers busy: a shard is one worker's, and a benchmark's photos would fit into one of usual size."""
    shutil.rmtree(output, ignore_errors=True)
    os.sync()  # so that what others wrote is not waited for
    command = [sys.executable, ROOT / "pipelines/prepare.py", "folder", photos, "--to", "shards", "--output", output]
    return finished([*command, "--shard-size", _SHARD, *options], "preparation")[0]


def export_folder(dataset: Dataset, folder: Path) -> None:
    """Writes every image of `dataset`, as encoded, to folder/<split>/<class>/, for peers that read nothing else."""
    for index, label in enumerate(dataset.labels(np.arange(len(dataset)))):
        path = folder / dataset.split / dataset.classes[label] / f"{index:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dataset.read(index).tobytes())


def recovered_crops(images: Tensor) -> np.ndarray:
    """Where crops of `write_gradients` came from: float (n, 3), each crop's share of the area, width over height in
    pixels, and whether it is mirrored. `images`: uint8 (n, 3, H, W)."""
    pixels = images.permute(0, 2, 3, 1).numpy().astype(float) / 255
    side = pixels.shape[1]
    # The ends of a fitted line, and not single pixels, so that the codec's noise averages out.
    steps = np.arange(side) - (side - 1) / 2
    across, down = pixels[..., 0].mean(axis=1), pixels[..., 1].mean(axis=2)
    width, height = ((line * steps).sum(axis=1) / (steps**2).sum() * side for line in (across, down))
    ratio = np.abs(width) * WIDTH / np.maximum(np.abs(height) * HEIGHT, 1e-9)
    return np.stack([np.abs(width * height), ratio, width < 0], axis=1)
