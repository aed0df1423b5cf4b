"""FFCV with its own decoder, in the pipeline of its ImageNet example, up to uint8 tensors on the host."""

from __future__ import annotations

from ffcv.fields import IntField, RGBImageField
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder

from benchmarks.peers import DataJob, Passes

SETTING = (
    "JPEG .beton in memory (os_cache) of the photos' quality, quasi-random order off, its random resized crop decoder, "
    "channels_last uint8"
)
# Dropped ones have numba complain about itself in the middle of a measurement.
_KEPT: list[Loader] = []


def passes(job: DataJob) -> Passes:
    beton = job.work / "photos.beton"
    if not beton.exists():
        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=job.quality), "label": IntField()}
        writer = DatasetWriter(str(beton), fields, num_workers=job.workers)
        writer.from_indexed_dataset(ImageFolder(str(job.folder / "train")))
    decoder = RandomResizedCropRGBImageDecoder((job.resolution, job.resolution), scale=job.scale, ratio=job.ratio)
    image = [decoder, RandomHorizontalFlip(job.flip), ToTensor(), ToTorchImage()]
    loader = Loader(
        str(beton),
        batch_size=job.batch_size,
        num_workers=job.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": image, "label": None},
    )
    _KEPT.append(loader)
    return lambda: (images for (images,) in loader)
