"""How the images of a step are shared: over ranks, and over the micro-batches of a rank."""

from dataclasses import dataclass, replace

from engine.config.options import ConfigError, DataConfig


@dataclass(frozen=True)
class Batching:
    """How a step's images are shared: the global batch over all ranks, and the micro-batches of each, as many on every rank.

    batch_size: images of the largest micro-batch on any rank; least: of the smallest. unit: images that stay together, 2 where
    they are mixed in pairs. Where shares or micro-batches are uneven, `uneven_ranks` is the number of ranks, else 0; `sizes` are
    then those of this rank's micro-batches, and `advice` says of a new run why they are, and what would make them equal.
    """

    global_batch: int
    micro_batches: int
    batch_size: int
    uneven_ranks: int = 0
    sizes: tuple[int, ...] = ()
    least: int = 0
    advice: str = ""
    unit: int = 1

    @property
    def share(self) -> int:
        """Images of a step on the rank that has most of them."""
        if not self.uneven_ranks:
            return self.micro_batches * self.batch_size
        return self.unit * -(-self.global_batch // (self.unit * self.uneven_ranks))

    @property
    def compiled_sizes(self) -> tuple[int, ...]:
        """Sizes of micro-batches to compile for: as many on every rank, since the backward pass of each is exchanged."""
        return (self.sizes[0], self.sizes[-1]) if self.uneven_ranks else (self.batch_size,)

    def weight(self, images: int) -> float:
        """What the mean over a micro-batch of `images` counts in the sum of this rank's, where shares are uneven: the mean over
        the ranks of their sums is then the mean over the global batch."""
        return images * self.uneven_ranks / self.global_batch


def require_shares(options: DataConfig, world_size: int, unit: int = 1, begun: bool = False) -> None:
    """Raises ConfigError where no sizes of micro-batches could share the global batch: it is to be of whole units, one for each
    rank at least. `unit` is 2 where images are mixed in pairs; a run that is `begun` keeps its global batch."""
    total, size = options.global_batch_size, options.batch_size
    if size != "auto" and size % unit and (total is None or size < unit):
        raise ConfigError(f"mixup and cutmix mix pairs: set --data.batch_size to an even number, not {size}")
    if total is None:
        return
    if total < unit * world_size:
        needs = "1" if unit == 1 else f"{unit}, which mixup and cutmix mix,"
        fewer = ["use fewer processes"] if world_size > 1 else []
        wishes = fewer if begun and fewer else [f"set --data.global_batch_size to {unit * world_size} or more", *fewer]
        raise ConfigError(
            f"of the global batch of {counted(total, 'image')} each of {counted(world_size, 'process')} needs {needs} at least: "
            f"{', or '.join(wishes)}"
        )
    if total % unit:
        raise ConfigError(
            f"mixup and cutmix mix pairs, and the global batch of {total} images is an odd number: set --data.global_batch_size "
            f"to {_nearest(total, world_size, 2 * total if size == 'auto' else size, unit)}"
        )


def share_out(options: DataConfig, world_size: int, rank: int, unit: int = 1) -> Batching:
    """The global batch in equal parts where they can be and are worth it, else in uneven ones, whose `advice` says why.
    Raises ConfigError as `share_unevenly` does."""
    try:
        return share_batch(options, world_size, unit)
    except ConfigError as unequal:
        return replace(share_unevenly(options, world_size, rank, unit), advice=str(unequal))


def share_batch(options: DataConfig, world_size: int, unit: int = 1) -> Batching:
    """The global batch, one that `require_shares` takes, cut into equal shares of at most `options.batch_size` images, one or
    more a rank.

    `unit` is 2 where images are mixed in pairs, of which a micro-batch holds whole ones. Raises ConfigError when the ranks
    cannot have equal shares, or only such of less than half the images that were asked for: a share of a prime number of
    images would be computed one by one.
    """
    assert options.batch_size != "auto", "the trainer finds the number first"
    total, most = options.global_batch_size or options.batch_size * world_size, options.batch_size
    if total % (unit * world_size):
        raise ConfigError(
            f"the global batch of {total} images cannot be shared equally {'in pairs ' if unit > 1 else ''}among "
            f"{counted(world_size, 'process')}: set --data.global_batch_size to {_nearest(total, world_size, most, unit)}, or "
            "use another number of processes"
        )
    images = total // world_size
    micro = _largest_part(images, most, unit)
    if not _worthwhile(images, most, unit):
        larger = next(size for size in range(most + 1, images + 1) if images % size == 0 and size % unit == 0)
        raise ConfigError(
            f"the global batch of {total} images leaves each of {counted(world_size, 'process')} {images}, which no "
            f"{'even ' if unit > 1 else ''}number of images from {micro + 1} to {most} (--data.batch_size) divides: set "
            f"--data.global_batch_size to {_nearest(total, world_size, most, unit)}, or --data.batch_size to {micro} or {larger}"
        )
    return Batching(total, images // micro, micro, least=micro, unit=unit)


def share_unevenly(options: DataConfig, world_size: int, rank: int, unit: int = 1) -> Batching:
    """The global batch, one that `require_shares` takes, cut into shares that differ by `unit` images, and each into
    micro-batches that do, as the loader deals them. `unit` is 2 where images are mixed in pairs. Raises ConfigError when there
    is not an image for every micro-batch."""
    assert options.global_batch_size is not None
    assert options.batch_size != "auto"
    total = options.global_batch_size // unit
    largest = -(-total // world_size)
    parts = -(-largest // (options.batch_size // unit))
    least = total // world_size // parts
    if least == 0:
        raise ConfigError(
            f"of {world_size} processes some have {largest * unit} images of the global batch of {options.global_batch_size}, "
            f"some {(largest - 1) * unit}, too few for {parts} micro-batches: set --data.batch_size to {2 * unit} or more"
        )
    own = (rank + 1) * total // world_size - rank * total // world_size
    sizes = sorted({unit * (own // parts), unit * -(-own // parts)})
    return Batching(
        options.global_batch_size, parts, unit * -(-largest // parts), world_size, tuple(sizes), unit * least, unit=unit
    )


def more_than_one(options: DataConfig, world_size: int, auto: bool, begun: bool) -> str:
    """What would give every micro-batch 2 images or more, in words.

    auto: `options.batch_size` was found by trying, as all that the memory holds of a share; begun: the global batch is the run's.
    """
    total, most = options.global_batch_size, options.batch_size
    assert total is not None
    assert most != "auto"
    share = -(-total // world_size)
    larger = (
        size
        for size in range(most + 1, share + 1)
        if share_out(replace(options, batch_size=size), world_size, 0).least > 1
    )
    enough, limited = None if auto else next(larger, None), auto and most < share
    wishes = [f"--data.batch_size to {enough}"] if enough else []
    if not begun and (most > 1 or not (enough or limited)):
        both = "" if auto or most > 1 else "--data.batch_size to 2 and "
        wishes.append(f"{both}--data.global_batch_size to {_nearest(total, world_size, max(most, 2), least=2)}")
    if not wishes:
        return "use a smaller network" if limited else "use fewer processes"
    return f"set {', '.join(wishes)}"


def counted(number: int, what: str) -> str:
    """So many of something, in words."""
    return f"{number} {what}{'' if number == 1 else 'es' if what.endswith(('ch', 's')) else 's'}"


def _largest_part(images: int, most: int, unit: int = 1) -> int:
    """The largest number of images, up to `most` and of whole units, that divides a share of `images`."""
    return next(size for size in range(min(most, images) // unit * unit, 0, -unit) if images % size == 0)


def _worthwhile(images: int, most: int, unit: int = 1) -> bool:
    return 2 * _largest_part(images, most, unit) >= min(most // unit * unit, images)


def _nearest(total: int, world_size: int, most: int, unit: int = 1, least: int = 1) -> str:
    """The global batches below and above `total` that can be shared well, in parts of `least` images or more, in words."""

    def good(images: int) -> bool:
        return _worthwhile(images, most, unit) and _largest_part(images, most, unit) >= least

    below = total // world_size // unit * unit
    ways = (range(below, 0, -unit), range(below + unit, total + most + 2 * unit, unit))
    found = (next((share for share in way if share * world_size != total and good(share)), None) for way in ways)
    return " or ".join(str(share * world_size) for share in found if share is not None)
