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


def encoded_and_labels(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """All encoded images as one uint8 (bytes,), the length of each and its label, int64 (n,). A tensor that a worker sends
    costs a file descriptor while it lives: a few thousand, one an image, are more than a process may have."""
    encoded, labels = zip(*samples)
    return torch.cat(encoded), torch.tensor([len(image) for image in encoded]), torch.tensor(labels)


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
        for encoded, lengths, _ in loader:
            images = decode_jpeg(list(encoded.split(lengths.tolist())), ImageReadMode.RGB, device="cuda")
            batch = torch.stack([transform(image) for image in images])
            torch.cuda.current_stream().synchronize()  # a batch counts when it is there, as with the others
            yield batch

    return batches
