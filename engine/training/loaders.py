"""From the data options of a run to datasets and loaders."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.config.batching import Batching
from engine.config.options import Config, ConfigError, DataConfig
from engine.distributed.communicator import Communicator
from engine.evaluation.settings import Settings, check_settings
from inception.vocabulary.network import Network
from pipelines import DataError, Dataset, EvalPlan, Loader, TrainPlan, build_loader, open_dataset, sample_path
from pipelines.datasets.class_names import read_classes
from pipelines.plan.augmentation import Augmentation
from pipelines.plan.balance import Balance


def open_splits(options: DataConfig, progress: bool) -> tuple[Dataset, Dataset]:
    """The train and the val split, whose labels are positions in the train split's classes. Both are without what the
    quarantine file names; with `progress`, how many images that is gets printed, and what was assumed or passed over."""
    classes = read_classes(Path(options.classes).expanduser()) if options.classes else None
    train = open_split(options, "train", classes=classes, quarantine=options.quarantine, progress=progress)
    if len(train.classes) == 1 and classes is None:
        raise DataError(
            f"all {len(train):,} images of {train.path} are of one class, {train.classes[0]!r}, from which nothing can be "
            f"learned: {'; '.join(train.remarks) or 'look at its folders'}. To train all the same, name the class in a file: "
            "--data.classes FILE"
        )
    val = open_split(
        options, "val", classes=train.classes, quarantine=options.quarantine, shared=True, progress=progress
    )
    if progress:
        print_remarks(train, val)
    if options.quarantine and progress:
        print(f"in quarantine: {train.quarantined} images of train, {val.quarantined} of val are left out")
    return train, val


def open_split(options: DataConfig, split: Literal["train", "val"], **how: Any) -> Dataset:
    """One split, from where it lies apart or of the dataset; how: what `open_dataset` takes."""
    apart = {"train": options.train, "val": options.val}[split]
    if apart:
        return open_dataset(apart, split, alone=True, **how)
    if not options.path and (options.train or options.val):
        raise ConfigError(f"no {split} split: give --data.{split} as well, or --data.path")
    return open_dataset(options.path or sample_path(), split, held_out=options.held_out, **how)


def print_remarks(*datasets: Dataset) -> None:
    """What was assumed of the splits and what was passed over, a line each."""
    for dataset in datasets:
        for remark in dataset.remarks:
            print(f"{dataset.split}: {remark}", flush=True)


def training_loader(
    config: Config, dataset: Dataset, network: Network, batching: Batching, communicator: Communicator
) -> Loader:
    """Batches of one rank's share of every global batch, cropped and mirrored as the recipe says."""
    data = config.data
    plan = TrainPlan(
        len(dataset),
        batching.global_batch,
        seed=config.run.seed,
        shuffle=data.shuffle,
        interpolation=data.interpolation,
        scale=data.crop_scale,
        ratio=data.crop_ratio,
        flip=data.flip,
        augmentation=Augmentation(**asdict(config.augmentation)),
        balance=Balance(dataset.labels(np.arange(len(dataset)))) if data.sampler == "balanced" else None,
    )
    return _loader(data, dataset, plan, batching.batch_size, data.resolution or network.input_size, communicator)


def evaluation_settings(config: Config, network: Network, averaged: bool) -> Settings:
    """How a run shows images to its network when it evaluates; `averaged`: the weights are averages. ConfigError for options
    that contradict each other."""
    wanted = config.evaluation
    settings = Settings(
        wanted.resolution or config.data.resolution or network.input_size,
        wanted.crop_fraction or network.crop_fraction,
        tuple(network.mean),
        tuple(network.std),
        wanted.resize,
        wanted.interpolation,
        flip=wanted.flip,
        average=averaged,
        recalibrated=averaged and config.ema.recalibrate > 0,
    )
    check_settings(settings, network.in_channels)
    if wanted.resize and wanted.crop_fraction:
        raise ConfigError("--evaluation.resize and --evaluation.crop_fraction are two ways to say the same: give one")
    return settings


def evaluation_loader(
    data: DataConfig,
    dataset: Dataset,
    settings: Settings,
    batch_size: int,
    communicator: Communicator,
    plan: EvalPlan | None = None,
) -> Loader:
    """Every image of a split once, shown as `settings` say; `batch_size` is of one rank. plan: of one of several passes."""
    plan = plan or settings.plan(len(dataset), batch_size * communicator.world_size)
    return _loader(data, dataset, plan, batch_size, settings.resolution, communicator)


def _loader(
    data: DataConfig,
    dataset: Dataset,
    plan: TrainPlan | EvalPlan,
    batch_size: int,
    resolution: int,
    communicator: Communicator,
) -> Loader:
    # Of planes, "auto" is the native backend.
    backend = "native" if data.backend == "auto" and dataset.holds_planes else data.backend
    loader = build_loader(
        dataset,
        plan,
        data.backend,
        communicator.device,
        batch_size=batch_size,
        resolution=resolution,
        rank=communicator.rank,
        world_size=communicator.world_size,
        workers=data.workers or communicator.cores,
        prefetch=data.prefetch,
        on_error=data.on_error,
        settings=asdict(getattr(data, backend)) if backend in ("native", "dali", "ffcv") else None,
    )
    if data.native.planes_on_device and backend != "native":
        why = "nothing is read" if backend == "synthetic" else "the dataset holds no planes"
        loader.reason += f"; --data.native.planes_on_device true changes nothing: {why}"
    return loader
