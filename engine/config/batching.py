"""How the images of a step are shared: over ranks, and over the micro-batches of a rank."""

from dataclasses import dataclass

from engine.config.options import ConfigError, DataConfig


@dataclass(frozen=True)
class Batching:
    """How a step's images are shared: the global batch over all ranks, and the micro-batches of each, as many on every rank.

    batch_size: images of the largest micro-batch on any rank. Where shares are uneven, `uneven_ranks` is the number of ranks,
    else 0; `sizes` are then those of this rank's micro-batches, and `least` is the smallest on any rank. `advice` says of a new
    run's uneven shares why they are, and what would make them equal.
    """

    global_batch: int
    micro_batches: int
    batch_size: int
    uneven_ranks: int = 0
    sizes: tuple[int, ...] = ()
    least: int = 0
    advice: str = ""

    @property
    def compiled_sizes(self) -> tuple[int, ...]:
        """Sizes of micro-batches to compile for: as many on every rank, since the backward pass of each is exchanged."""
        return (self.sizes[0], self.sizes[-1]) if self.uneven_ranks else (self.batch_size,)

    def weight(self, images: int) -> float:
        """What the mean over a micro-batch of `images` counts in the sum of this rank's, where shares are uneven: the mean over
        the ranks of their sums is then the mean over the global batch."""
        return images * self.uneven_ranks / self.global_batch


def share_batch(options: DataConfig, world_size: int, unit: int = 1) -> Batching:
    """The global batch cut into equal shares of at most `options.batch_size` images, one or more a rank.

    `unit` is 2 where images are mixed
    in pairs, of which a micro-batch holds whole ones. Raises ConfigError when the ranks cannot have equal shares, or only such
    of less than half the images that were asked for: a share of a prime number of images would be computed one by one.
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
    if micro % unit:
        raise ConfigError(
            f"mixup and cutmix mix pairs: of the global batch of {total} images each of {world_size} processes would compute "
            f"{micro} at once, an odd number: choose another --data.global_batch_size or --data.batch_size"
        )
    return Batching(total, share // micro, micro)


def share_unevenly(options: DataConfig, world_size: int, rank: int, unit: int = 1) -> Batching:
    """The global batch cut into shares that differ by `unit` images, and each into micro-batches that do, as the loader deals
    them: for a number of ranks that does not divide the global batch. `unit` is 2 where images are mixed in pairs. Raises
    ConfigError when there is not an image for every rank and micro-batch."""
    assert options.global_batch_size is not None
    assert options.batch_size != "auto"
    total, most = options.global_batch_size // unit, options.batch_size // unit
    if total < world_size or most == 0 or options.global_batch_size % unit:
        what = "images" if unit == 1 else "images, mixed in pairs,"
        raise ConfigError(
            f"the global batch of {options.global_batch_size} {what} in parts of at most {options.batch_size} cannot be shared "
            f"among {world_size} processes: use fewer, or a larger --data.batch_size"
        )
    largest = -(-total // world_size)
    parts = -(-largest // most)
    least = total // world_size // parts
    if least == 0:
        raise ConfigError(
            f"of {world_size} processes some have {largest * unit} images of the global batch of {options.global_batch_size}, "
            f"some {(largest - 1) * unit}, too few for {parts} micro-batches: set --data.batch_size to {2 * unit} or more"
        )
    share = (rank + 1) * total // world_size - rank * total // world_size
    sizes = sorted({unit * (share // parts), unit * -(-share // parts)})
    return Batching(
        options.global_batch_size, parts, unit * -(-largest // parts), world_size, tuple(sizes), unit * least
    )


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
