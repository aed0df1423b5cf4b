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

    A run resumed on another number of ranks keeps its global batch; the micro-batches adapt. Raises ConfigError when the
    ranks cannot have equal shares, or only such of less than half the images that were asked for: a share of a prime
    number of images would be computed one by one.
    """
    assert options.batch_size != "auto", "the trainer finds the number first"
    total, most = options.global_batch_size or options.batch_size * world_size, options.batch_size
    share = total // world_size
    if total % world_size:
        raise ConfigError(
            f"the global batch of {total} images cannot be shared equally among {world_size} processes: set "
            f"--data.global_batch_size to {_nearest(total, world_size, most)}, or use another number of processes"
        )
    micro = _largest_part(share, most)
    if not _worthwhile(share, most):
        larger = next(size for size in range(most + 1, share + 1) if share % size == 0)
        raise ConfigError(
            f"the global batch of {total} images leaves each of {world_size} processes {share}, which no number of images "
            f"from {micro + 1} to {most} (--data.batch_size) divides: set --data.global_batch_size to "
            f"{_nearest(total, world_size, most)}, or --data.batch_size to {micro} or {larger}"
        )
    return Batching(total, share // micro, micro)


def _largest_part(share: int, most: int) -> int:
    """The largest number of images, up to `most`, that divides `share`."""
    return next(size for size in range(min(most, share), 0, -1) if share % size == 0)


def _worthwhile(share: int, most: int) -> bool:
    return 2 * _largest_part(share, most) >= min(most, share)


def _nearest(total: int, world_size: int, most: int) -> str:
    """The global batches below and above `total` that can be shared well, in words."""
    shares = (range(total // world_size, 0, -1), range(total // world_size + 1, total + most + 1))
    found = (
        next((share for share in way if share * world_size != total and _worthwhile(share, most)), None)
        for way in shares
    )
    return " or ".join(str(share * world_size) for share in found if share is not None)
