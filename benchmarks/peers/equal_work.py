"""Whether a loader does the work that is asked of it: form and type of its batches, and where its crops come from."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from benchmarks.measuring.photos import HEIGHT, WIDTH, recovered_crops
from benchmarks.peers.loaders import DataJob, Passes
from pipelines import TrainPlan

# What a loader's means may differ by, in standard errors: a false alarm in ten thousand checks.
_ERRORS = 4.0
# Of each crop: its share of the area, the logarithm of width over height, whether it is mirrored. Integer boxes, antialiasing
# at the borders and rounding to uint8 move what is recovered a little.
_BLUR = {"area": 0.02, "ratio": 0.03, "mirrored": 0.0}
_DRAWS = 4000


@dataclass(frozen=True)
class Work:
    """What a loader was seen doing: type and size of its batches, and its crops, float (n, 3) in the order of _BLUR."""

    dtype: str
    size: tuple[int, ...]
    crops: np.ndarray


def observe(passes: Passes, limit: int = 10_000) -> Work:
    """The work of one pass over a dataset of `photos.write_gradients`."""
    batches: list[Tensor] = []
    for images in passes():
        batches.append(images.cpu().clone())  # some loaders reuse their buffers
        if sum(map(len, batches)) >= limit:
            break
    area, ratio, mirrored = np.concatenate([recovered_crops(images) for images in batches]).T
    kind, size = str(batches[0].dtype).removeprefix("torch."), tuple(batches[0].shape[2:])
    return Work(kind, size, np.stack([area, np.log(ratio), mirrored], 1))


def expected(job: DataJob) -> np.ndarray:
    """Crops as `job` asks for them, by simulation of a plan's own, float (_DRAWS, 3)."""
    plan, indices = TrainPlan(_DRAWS, _DRAWS, scale=job.scale, ratio=job.ratio, flip=job.flip), np.arange(_DRAWS)
    width, height = plan.boxes(0, indices, np.full((_DRAWS, 2), (WIDTH, HEIGHT), np.int32))[:, 2:].T.astype(float)
    mirrored = indices < job.flip * _DRAWS
    return np.stack([width * height / (WIDTH * HEIGHT), np.log(width / height), mirrored], 1)


def differences(work: Work, job: DataJob) -> list[str]:
    """In what a loader's work differs from what was asked, in words; empty when it is equal."""
    asked = {"dtype": "uint8", "size": (job.resolution, job.resolution)}
    found = [f"{name} is {getattr(work, name)}, not {it}" for name, it in asked.items() if getattr(work, name) != it]
    for (name, blur), seen, wanted in zip(_BLUR.items(), work.crops.T, expected(job).T):
        error = wanted.std() / len(seen) ** 0.5
        if abs(seen.mean() - wanted.mean()) > _ERRORS * error + blur:
            found.append(f"mean {name} is {seen.mean():.3f}, not {wanted.mean():.3f} +- {error:.3f}")
    return found
