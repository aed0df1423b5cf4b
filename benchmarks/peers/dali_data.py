"""DALI in the pipeline of NVIDIA's ResNet-50 example for PyTorch, on the CPU or with its mixed decoder on a GPU."""

# DALI builds its functions and types at run time: type checkers do not see them.
# mypy: disable-error-code="attr-defined, call-overload, assignment"

from __future__ import annotations

from collections.abc import Generator

import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIClassificationIterator
from torch import Tensor

from benchmarks.peers import DataJob, Passes

SETTING = "file reader, fused decode and random crop, triangular resize, crop_mirror_normalize; uint8 NHWC out"


@pipeline_def(exec_dynamic=True)
def _training(job: DataJob, device: str):  # type: ignore[no-untyped-def]  # DALI's graph has no types
    encoded, labels = fn.readers.file(
        file_root=str(job.folder / "train"), random_shuffle=True, pad_last_batch=True, name="Reader"
    )
    images = fn.decoders.image_random_crop(
        encoded,
        device=device,
        output_type=types.RGB,
        random_aspect_ratio=list(job.ratio),
        random_area=list(job.scale),
        num_attempts=10,
    )
    images = fn.resize(
        images, resize_x=job.resolution, resize_y=job.resolution, interp_type=types.INTERP_TRIANGULAR, antialias=True
    )
    images = fn.crop_mirror_normalize(
        images,
        dtype=types.UINT8,
        output_layout="HWC",
        crop=(job.resolution, job.resolution),
        mirror=fn.random.coin_flip(probability=job.flip),
    )
    return images, labels


def passes(job: DataJob) -> Passes:
    on_gpu = torch.cuda.is_available()
    pipeline = _training(
        job,
        "mixed" if on_gpu else "cpu",
        batch_size=job.batch_size,
        num_threads=job.workers,
        device_id=torch.cuda.current_device() if on_gpu else None,
        prefetch_queue_depth=2,
    )
    iterator = DALIClassificationIterator(
        pipeline, reader_name="Reader", auto_reset=True, last_batch_policy=LastBatchPolicy.DROP
    )

    def batches() -> Generator[Tensor]:
        # The iterator cannot go back in mid-epoch: a pass has a whole epoch's batches wherever it begins.
        for _ in range(len(iterator)):
            try:
                batch = next(iterator)
            except StopIteration:
                batch = next(iterator)
            # Channels last in memory, as (N, C, H, W) like the others.
            yield batch[0]["data"].permute(0, 3, 1, 2)

    return batches
