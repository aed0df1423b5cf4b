"""timm's loader, as its train script sets it up: its own transforms, fast collation of uint8, persistent workers."""

from __future__ import annotations

import torch
from timm.data import create_dataset, create_loader

from benchmarks.peers import DataJob, Passes

SETTING = "create_loader with fast_collate (uint8), persistent workers, no colour jitter; before its device prefetcher"


def passes(job: DataJob) -> Passes:
    loader = create_loader(
        create_dataset("", root=str(job.folder / "train")),
        input_size=(3, job.resolution, job.resolution),
        batch_size=job.batch_size,
        is_training=True,
        scale=job.scale,
        ratio=job.ratio,
        hflip=job.flip,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        pin_memory=torch.cuda.is_available(),
        device=torch.device("cpu"),
        use_prefetcher=True,
    )
    # The prefetcher around it normalises on the device, which for every other loader here is the step's work.
    return lambda: (images for images, _ in loader.loader)
