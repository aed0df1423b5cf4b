"""How many images a device has memory for: found by trying, before training or when it was too much."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from engine.config.batching import Batching, counted, more_than_one, require_shares, share_out
from engine.config.options import Config, ConfigError
from engine.distributed.communicator import Communicator
from engine.faults.out_of_memory import is_out_of_memory
from engine.graphs.objective import Objective

# Beside the activations: gradients, the optimizer's state, averaged weights, the exchange's buffers [times the weights].
_STATE_COPIES = 5
# A forward pass alone must leave this much room for the backward pass's own needs.
_BACKWARD_ROOM = 1.2


def largest_fitting(sizes: Sequence[int], fits: Callable[[int], bool], others: Sequence[int] = ()) -> int | None:
    """The largest of `sizes`, in rising order, for which `fits` holds; None when not even the smallest does.

    If one does not fit, larger ones are taken not to. Tries the largest first, which often fits, then halves the rest. One of
    `others`, in rising order as well, is preferred where it is more than twice as large.
    """
    low, high = -1, len(sizes) - 1  # sizes[low] fits, sizes[high] does not
    if sizes and fits(sizes[-1]):
        low, high = high, len(sizes)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(sizes[middle]) else (low, middle)
    if low < 0:
        return None
    between = [size for size in others if size > 2 * sizes[low] and all(size < too_much for too_much in sizes[high:])]
    return largest_fitting(between, fits) or sizes[low]


def equal_parts(share: int, unit: int = 1) -> list[int]:
    """The micro-batch sizes, in whole units, that cut `share` images into equal parts, in rising order."""
    return [size for size in range(unit, share + 1, unit) if share % size == 0]


def nearly_equal_parts(share: int, unit: int = 1) -> list[int]:
    """The same for parts that differ by a unit: the size of the larger ones."""
    return sorted({unit * -(-share // unit // parts) for parts in range(1, share // unit + 1)})


def find_batch_size(
    objective: Objective, sizes: Sequence[int], resolution: int, communicator: Communicator, others: Sequence[int] = ()
) -> int | None:
    """The largest of `sizes`, in rising order, of a micro-batch that trains within the memory of every rank's device, or one of
    `others` that is more than twice as large; None: not even the smallest.

    Runs `objective`, not yet wrapped for gradient exchange, forward and backward on gray images
    and leaves it as it was. Every rank must call it.
    """
    weights = sum(parameter.nbytes for parameter in objective.parameters())
    buffers = {name: buffer.clone() for name, buffer in objective.named_buffers()}

    def fits(size: int) -> bool:
        def attempt() -> None:
            state = torch.empty(_STATE_COPIES * weights, dtype=torch.uint8, device=communicator.device)
            loss, _ = objective(*_gray(size, resolution, communicator.device))
            loss.backward()
            del state

        possible = _possible(attempt, communicator.device)
        for parameter in objective.parameters():
            parameter.grad = None
        return all(communicator.gather(possible))

    found = largest_fitting(sizes, fits, others)
    with torch.no_grad():
        for name, buffer in objective.named_buffers():
            buffer.copy_(buffers[name])
    return found


def settle_batching(config: Config, objective: Objective, communicator: Communicator, begun: bool = False) -> Batching:
    """How the global batch is shared out, with "auto" found by trying; both numbers are written into `config.data`.

    Every rank must call it. A run takes any number of ranks, with shares that differ by an image (a pair where images are mixed)
    where they must; one that is not `begun` hears how they would be equal. Raises ConfigError when there is not an image for
    every rank, nothing fits, or batch normalisation would see one image at a time.
    """
    data, ranks = config.data, communicator.world_size
    unit = 2 if config.augmentation.mixup or config.augmentation.cutmix else 1
    require_shares(data, ranks, unit, begun)
    auto = data.batch_size == "auto"
    if auto:
        assert data.global_batch_size is not None  # which "auto" needs
        share = unit * -(-data.global_batch_size // (unit * ranks))
        others = nearly_equal_parts(share, unit)
        sizes = others if data.global_batch_size % (unit * ranks) else equal_parts(share, unit)
        resolution = data.resolution or objective.network.input_size
        found = find_batch_size(objective, sizes, resolution, communicator, others)
        if found is None:
            raise ConfigError(f"not even one image of {resolution} pixels fits into the memory: use a smaller network")
        data.batch_size = found
    batching = share_out(data, ranks, communicator.rank, unit)
    data.global_batch_size = batching.global_batch
    if (
        batching.least == 1
        and not (config.strategy.sync_batchnorm and ranks > 1)
        and any(isinstance(m, nn.BatchNorm2d) and m.training for m in objective.modules())
    ):
        of = "1" if batching.batch_size == 1 else f"1 to {batching.batch_size}"
        raise ConfigError(
            f"batch normalisation needs more than 1 image at a time, and the global batch of {batching.global_batch} leaves "
            f"each of {counted(ranks, 'process')} {counted(batching.micro_batches, 'micro-batch')} of {of}: "
            f"{more_than_one(data, ranks, auto, begun)}, or --network.batch_norm false"
        )
    return replace(batching, advice="") if begun else batching


def advise(objective: Objective, batching: Batching, resolution: int, device: torch.device) -> str:
    """What to do when the micro-batches of `batching` were too much for the memory, in one line.

    Forward passes alone are tried, on this rank: the backward pass would call for the other ranks.
    """

    def fits(size: int) -> bool:
        return _possible(lambda: objective(*_gray(round(_BACKWARD_ROOM * size), resolution, device)), device)

    tried, share, unit = batching.batch_size, batching.share, batching.unit
    others = [size for size in nearly_equal_parts(share, unit) if size < tried]
    equal = [size for size in equal_parts(share, unit) if size < tried]
    found = largest_fitting(others if batching.uneven_ranks else equal, fits, others)
    if found is None:
        return (
            f"{tried} images at once do not fit into the memory of {_name(device)}, nor do fewer: use a smaller network"
        )
    return (
        f"{tried} images at once do not fit into the memory of {_name(device)}; {found} would: --data.batch_size {found}, or "
        f"auto; with --data.global_batch_size as it is, gradients accumulate and the run stays the same"
    )


def _possible(attempt: Callable[[], object], device: torch.device) -> bool:
    try:
        attempt()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def _gray(size: int, resolution: int, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.full((size, resolution, resolution, 3), 128, dtype=torch.uint8, device=device)
    return images.permute(0, 3, 1, 2), torch.zeros(size, dtype=torch.int64, device=device)


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return "this machine"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)"
