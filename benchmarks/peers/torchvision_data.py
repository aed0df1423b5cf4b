"""ImageFolder and DataLoader, as torchvision's reference training and PyTorch's ImageNet example set them up."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.peers import DataJob, Passes

SETTING = "ImageFolder, transforms v2 on Pillow images, uint8 to the end, DataLoader with persistent workers"


def transform(job: DataJob) -> v2.Compose:
    """Pillow images to uint8 tensors; v2 on uint8 is what torchvision documents as fastest."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(job.resolution, scale=job.scale, ratio=job.ratio, antialias=True),
            v2.RandomHorizontalFlip(job.flip),
            v2.PILToTensor(),
        ]
    )


def passes(job: DataJob) -> Passes:
    loader = DataLoader(
        ImageFolder(str(job.folder / "train"), transform(job)),
        batch_size=job.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    return lambda: (images for images, _ in loader)
