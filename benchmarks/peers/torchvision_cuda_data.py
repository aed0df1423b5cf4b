"""torchvision's batched JPEG decoding on a GPU (nvJPEG), then its own random resized crop there, image by image."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from benchmarks.peers import DataJob, Passes

SETTING = (
    "DataLoader workers read the bytes, decode_jpeg of a batch on the GPU, transforms v2 with antialiasing there, uint8"
)


def encoded_and_labels(samples: list[tuple[Tensor, int]]) -> tuple[list[Tensor], Tensor]:
    """Encoded images, uint8 (bytes,) each, and labels, int64 (n,); images of unlike sizes are no one tensor."""
    encoded, labels = zip(*samples)
    return list(encoded), torch.tensor(labels)


def crop(job: DataJob) -> v2.Compose:
    """uint8 (3, H, W) on any device to uint8 (3, resolution, resolution) there."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(job.resolution, scale=job.scale, ratio=job.ratio, antialias=True),
            v2.RandomHorizontalFlip(job.flip),
        ]
    )


def passes(job: DataJob) -> Passes:
    if not torch.cuda.is_available():
        raise RuntimeError("needs a GPU")
    loader = DataLoader(
        ImageFolder(str(job.folder / "train"), loader=read_file),
        batch_size=job.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        collate_fn=encoded_and_labels,
    )
    transform = crop(job)

    def batches() -> Generator[Tensor]:
        for encoded, _ in loader:
            images = decode_jpeg(encoded, ImageReadMode.RGB, device="cuda")
            batch = torch.stack([transform(image) for image in images])
            torch.cuda.current_stream().synchronize()  # a batch counts when it is there, as with the others
            yield batch

    return batches
