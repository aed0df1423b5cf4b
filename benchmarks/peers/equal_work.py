"""Whether a loader does the work that is asked of it: form and type of its batches, and where its crops come from."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from benchmarks.measuring.photos import HEIGHT, WIDTH, recovered_crops
from benchmarks.peers.loaders import DataJob, Passes
from pipelines import TrainPlan

# What a loader's means may differ by, in standard errors: a false alarm in ten thousand checks.
_ERRORS = 4.0
# Integer boxes, antialiasing at the borders and rounding to uint8 move what is recovered a little.
_BLUR = {"area": 0.02, "ratio": 0.03, "mirrored": 0.0}


@dataclass(frozen=True)
class Work:
    """What a loader was seen doing: images a pass, their type and size, and the means over its crops of the share of the
    area, of the logarithm of width over height, and of how many are mirrored."""

    images: int
    dtype: str
    size: tuple[int, int]
    area: float
    ratio: float
    mirrored: float


def observe(passes: Passes, limit: int = 10_000) -> Work:
    """The work of one pass over a dataset of `photos.write_gradients`."""
    batches: list[Tensor] = []
    for images in passes():
        batches.append(images.cpu().clone())  # some loaders reuse their buffers
        if sum(map(len, batches)) >= limit:
            break
    area, ratio, mirrored = np.concatenate([recovered_crops(images) for images in batches]).T
    kind, size = str(batches[0].dtype).removeprefix("torch."), tuple(batches[0].shape[2:])
    return Work(len(area), kind, size, float(area.mean()), float(np.log(ratio).mean()), float(mirrored.mean()))


def expected(job: DataJob, images: int) -> tuple[Work, dict[str, float]]:
    """The work that `job` asks for, and the standard errors of its means over so many images, by simulation of a plan's
    own crops."""
    draws = 4000
    plan = TrainPlan(draws, draws, scale=job.scale, ratio=job.ratio, flip=job.flip)
    boxes = plan.boxes(0, np.arange(draws), np.full((draws, 2), (WIDTH, HEIGHT), np.int32))
    width, height = boxes[:, 2].astype(float), boxes[:, 3].astype(float)
    area, ratio = width * height / (WIDTH * HEIGHT), np.log(width / height)
    work = Work(images, "uint8", (job.resolution, job.resolution), float(area.mean()), float(ratio.mean()), job.flip)
    spread = {"area": area.std(), "ratio": ratio.std(), "mirrored": (job.flip * (1 - job.flip)) ** 0.5}
    return work, {name: float(value) / images**0.5 for name, value in spread.items()}


def differences(work: Work, job: DataJob) -> list[str]:
    """In what a loader's work differs from what was asked, in words; empty when it is equal."""
    wanted, errors = expected(job, work.images)
    found = []
    for name in ("dtype", "size", *errors):
        seen, asked = getattr(work, name), getattr(wanted, name)
        if name not in errors and seen != asked:
            found.append(f"{name} is {seen}, not {asked}")
        elif name in errors and abs(seen - asked) > _ERRORS * errors[name] + _BLUR[name]:
            found.append(f"mean {name} is {seen:.3f}, not {asked:.3f} +- {errors[name]:.3f}")
    return found
