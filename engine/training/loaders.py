"""From the data options of a run to datasets and loaders."""

from dataclasses import asdict, dataclass

from engine.config.options import Config, ConfigError, DataConfig
from engine.distributed.strategy import Strategy, usable_cores
from inception.vocabulary.network import Network
from pipelines import Dataset, EvalPlan, Loader, TrainPlan, build_loader, open_dataset, sample_path
from pipelines.plan.augmentation import Augmentation


@dataclass(frozen=True)
class Batching:
    """How a step's images are shared: the global batch over all ranks, a rank's micro-batches and their size."""

    global_batch: int
    micro_batches: int
    batch_size: int


def share_batch(options: DataConfig, world_size: int) -> Batching:
    """The global batch cut into equal shares of at most `options.batch_size` images, one or more a rank.

    A run resumed on another number of ranks keeps its global batch; the micro-batches adapt.
    Raises ConfigError when the ranks cannot have equal shares.
    """
    assert options.batch_size != "auto", "the trainer finds the number first"
    total = options.global_batch_size or options.batch_size * world_size
    if total % world_size:
        raise ConfigError(
            f"the global batch of {total} images cannot be shared equally among {world_size} processes: "
            "set --data.global_batch_size to a multiple, or use another number of processes"
        )
    share = total // world_size
    micro = next(size for size in range(min(options.batch_size, share), 0, -1) if share % size == 0)
    return Batching(total, share // micro, micro)


def open_splits(options: DataConfig, progress: bool) -> tuple[Dataset, Dataset]:
    """The train and the val split, whose labels are positions in the train split's classes. Both are without what the
    quarantine file names; with `progress`, how many images that is gets printed."""
    path = options.path or sample_path()
    train = open_dataset(path, "train", quarantine=options.quarantine, progress=progress)
    val = open_dataset(
        path, "val", classes=train.classes, quarantine=options.quarantine, shared=True, progress=progress
    )
    if options.quarantine and progress:
        print(f"in quarantine: {train.quarantined} images of train, {val.quarantined} of val are left out")
    return train, val


def training_loader(
    config: Config, dataset: Dataset, network: Network, batching: Batching, strategy: Strategy
) -> Loader:
    """Batches of one rank's share of every global batch, cropped and mirrored as the recipe says."""
    data = config.data
    plan = TrainPlan(
        len(dataset),
        batching.global_batch,
        seed=config.run.seed,
        shuffle=data.shuffle,
        scale=data.crop_scale,
        ratio=data.crop_ratio,
        flip=data.flip,
        augmentation=Augmentation(**asdict(config.augmentation)),
    )
    return _loader(data, dataset, plan, batching.batch_size, data.resolution or network.input_size, strategy)


def evaluation_loader(
    data: DataConfig, dataset: Dataset, network: Network, batch_size: int, strategy: Strategy, resolution: int = 0
) -> Loader:
    """Every image of a split once, its centre at `resolution` pixels (0: as in training); `batch_size` is of one rank."""
    plan = EvalPlan(len(dataset), batch_size * strategy.world_size, crop_fraction=network.crop_fraction)
    return _loader(data, dataset, plan, batch_size, resolution or data.resolution or network.input_size, strategy)


def _loader(
    data: DataConfig, dataset: Dataset, plan: TrainPlan | EvalPlan, batch_size: int, resolution: int, strategy: Strategy
) -> Loader:
    return build_loader(
        dataset,
        plan,
        data.backend,
        strategy.device,
        batch_size=batch_size,
        resolution=resolution,
        rank=strategy.rank,
        world_size=strategy.world_size,
        workers=data.workers or default_workers(strategy),
        prefetch=data.prefetch,
        on_error=data.on_error,
        settings=asdict(getattr(data, data.backend)) if data.backend in ("dali", "ffcv") else None,
    )


def default_workers(strategy: Strategy) -> int:
    """The cores of this machine shared among its ranks; on a CPU the network computes on the same cores."""
    return max(1, usable_cores() // strategy.local_world_size)
