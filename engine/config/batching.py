"""How the images of a step are shared: over ranks, and over the micro-batches of a rank."""

from dataclasses import dataclass

from engine.config.options import ConfigError, DataConfig


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
