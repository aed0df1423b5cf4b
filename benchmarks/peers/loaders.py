"""The loaders that people would use instead, each in its best documented setting, doing the same work as our own.

A loader is a function of a `DataJob` that prepares it and returns a callable: every call is a fresh pass over the dataset, an
iterable of uint8 image batches (n, 3, H, W). Its docstring says how it is set up. A package that is missing raises
ImportError, and one that needs a GPU RuntimeError where there is none; the tables show both.
"""

# DALI builds its functions and types at run time: type checkers do not see them.
# mypy: disable-error-code="attr-defined, call-overload, assignment"

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from benchmarks.measuring.photos import write_shards

Passes = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class DataJob:
    """Training batches to be made: random crops of `scale` (shares of the area) and `ratio` (width / height) resized to
    `resolution`, half of them mirrored, as uint8.

    `folder` has train/<class>/*.jpg; `work` is a folder for files that a loader's own format needs, and `quality` that of
    its JPEGs where it encodes them anew.
    """

    folder: Path
    work: Path
    batch_size: int
    resolution: int
    workers: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    quality: int = 90

    @property
    def ahead(self) -> int:
        """Batches that a loader makes before they are asked for, at most: DataLoader's two a worker; FFCV and DALI make two
        or three in all."""
        return max(4, 2 * self.workers)

    @property
    def train(self) -> str:
        """The folder of the training images."""
        return str(self.folder / "train")


def crop(job: DataJob) -> v2.Compose:
    """Pillow images, or uint8 tensors (3, H, W) on any device, cut, resized and mirrored."""
    cut = v2.RandomResizedCrop(job.resolution, scale=job.scale, ratio=job.ratio, antialias=True)
    return v2.Compose([cut, v2.RandomHorizontalFlip(job.flip)])


def transform(job: DataJob) -> v2.Compose:
    """Pillow images to uint8 tensors; v2 on uint8 is what torchvision documents as fastest."""
    return v2.Compose([*crop(job).transforms, v2.PILToTensor()])


def _data_loader(job: DataJob, dataset: ImageFolder, **options: Any) -> DataLoader:
    return DataLoader(
        dataset, job.batch_size, shuffle=True, drop_last=True, num_workers=job.workers,
        persistent_workers=job.workers > 0, **options,
    )  # fmt: skip


def torchvision(job: DataJob) -> Passes:
    """ImageFolder, transforms v2 on Pillow images, uint8 to the end, DataLoader with persistent workers."""
    loader = _data_loader(job, ImageFolder(job.train, transform(job)), pin_memory=torch.cuda.is_available())
    return lambda: (images for images, _ in loader)


def torchvision_cuda(job: DataJob) -> Passes:
    """DataLoader workers read the bytes, decode_jpeg of a batch on the GPU, transforms v2 with antialiasing there, uint8."""
    if not torch.cuda.is_available():
        raise RuntimeError("needs a GPU")
    loader, cut = _data_loader(job, ImageFolder(job.train, loader=read_file), collate_fn=encoded_and_labels), crop(job)

    def batches() -> Generator[Tensor]:
        for encoded, lengths, _ in loader:
            images = decode_jpeg(list(encoded.split(lengths.tolist())), ImageReadMode.RGB, device="cuda")
            batch = torch.stack([cut(image) for image in images])
            torch.cuda.current_stream().synchronize()  # a batch counts when it is there, as with the others
            yield batch

    return batches


def encoded_and_labels(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """All encoded images as one uint8 (bytes,), the length of each and its label, int64 (n,). A tensor that a worker sends
    costs a file descriptor while it lives: a few thousand, one an image, are more than a process may have."""
    encoded, labels = zip(*samples)
    return torch.cat(encoded), torch.tensor([len(image) for image in encoded]), torch.tensor(labels)


def timm(job: DataJob) -> Passes:
    """create_loader with fast_collate (uint8), persistent workers, no colour jitter; before its device prefetcher."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=job.train), input_size=(3, job.resolution, job.resolution), batch_size=job.batch_size,
        is_training=True, scale=job.scale, ratio=job.ratio, hflip=job.flip, color_jitter=0.0, interpolation="bilinear",
        num_workers=job.workers, persistent_workers=job.workers > 0, pin_memory=torch.cuda.is_available(),
        device=torch.device("cpu"), use_prefetcher=True,
    )  # fmt: skip
    # The prefetcher around it normalises on the device, which for every other loader here is the step's work.
    return lambda: (images for images, _ in loader.loader)


def webdataset(job: DataJob) -> Passes:
    """Tar shards read sequentially, shuffle buffer of 1,000, Pillow, torchvision transforms, batched in the workers."""
    import webdataset as wds

    shards = write_shards(job.folder / "train", job.work / "shards", count=max(4, 2 * job.workers))
    dataset = wds.WebDataset([str(shard) for shard in shards], shardshuffle=100, nodesplitter=wds.split_by_node)
    dataset = dataset.shuffle(1000).decode("pil").to_tuple("jpg", "cls").map_tuple(transform(job), int)
    workers = {"num_workers": job.workers, "persistent_workers": job.workers > 0}
    loader = wds.WebLoader(dataset.batched(job.batch_size, partial=False), batch_size=None, shuffle=False, **workers)
    return lambda: (images for images, _ in loader)


def ffcv(job: DataJob, write_mode: str = "jpg") -> Passes:
    """JPEG .beton in memory (os_cache) of the photos' quality, quasi-random order off, its random resized crop decoder,
    channels_last uint8."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    beton = job.work / f"{write_mode}.beton"
    if not beton.exists():
        fields = {"image": RGBImageField(write_mode=write_mode, jpeg_quality=job.quality), "label": IntField()}
        DatasetWriter(str(beton), fields, num_workers=job.workers).from_indexed_dataset(ImageFolder(job.train))
    return ffcv_reading(beton, job)


# Dropped ones have numba complain about itself in the middle of a measurement.
_KEPT: list[Any] = []


def ffcv_reading(beton: Path, job: DataJob) -> Passes:
    """Passes over a file that is there, in the pipeline of FFCV's ImageNet example."""
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    decoder = RandomResizedCropRGBImageDecoder((job.resolution, job.resolution), scale=job.scale, ratio=job.ratio)
    image = [decoder, RandomHorizontalFlip(job.flip), ToTensor(), ToTorchImage()]
    loader = Loader(
        str(beton), job.batch_size, job.workers, order=OrderOption.RANDOM, os_cache=True, drop_last=True,
        pipelines={"image": image, "label": None},
    )  # fmt: skip
    _KEPT.append(loader)
    return lambda: (images for (images,) in loader)


def dali(job: DataJob) -> Passes:
    """File reader, fused decode and random crop, triangular resize, crop_mirror_normalize; uint8 NHWC out."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIClassificationIterator

    on_gpu, side = torch.cuda.is_available(), job.resolution

    @pipeline_def(exec_dynamic=True)
    def training():  # type: ignore[no-untyped-def]  # DALI's graph has no types
        encoded, labels = fn.readers.file(file_root=job.train, random_shuffle=True, pad_last_batch=True, name="Reader")
        images = fn.decoders.image_random_crop(
            encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB, num_attempts=10,
            random_aspect_ratio=list(job.ratio), random_area=list(job.scale),
        )  # fmt: skip
        images = fn.resize(images, resize_x=side, resize_y=side, interp_type=types.INTERP_TRIANGULAR, antialias=True)
        shape = {"dtype": types.UINT8, "output_layout": "HWC", "crop": (side, side)}
        return fn.crop_mirror_normalize(images, mirror=fn.random.coin_flip(probability=job.flip), **shape), labels

    pipeline = training(
        batch_size=job.batch_size, num_threads=job.workers, prefetch_queue_depth=2,
        device_id=torch.cuda.current_device() if on_gpu else None,
    )  # fmt: skip
    whole = {"auto_reset": True, "last_batch_policy": LastBatchPolicy.DROP}
    iterator = DALIClassificationIterator(pipeline, reader_name="Reader", **whole)

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


LOADERS: dict[str, Callable[[DataJob], Passes]] = {
    "torchvision": torchvision, "torchvision_cuda": torchvision_cuda, "timm": timm, "webdataset": webdataset, "ffcv": ffcv,
    "dali": dali,
}  # fmt: skip
