"""Planes that a GPU resizes beside planes that the loader's threads resize, and JPEGs.

    python benchmarks/studies/planes_on_gpu.py

The native loader in turns on the same photos of 500 x 375 pixels, each batch on the device before the next is asked for: images a
second, and a second of a core, and what of the GPU's time the first takes. Without a GPU it is left out, and the others are
measured on the CPU. How many bytes of an image cross to a GPU that resizes it is counted on any machine.
"""

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks.measuring import BenchmarkError, Subject, alternate, drained
from benchmarks.measuring.loading import AHEAD
from benchmarks.measuring.photos import prepare_shards, write_photos
from benchmarks.reporting import Result, Study
from pipelines import Batch, Loader, TrainPlan, build_loader, open_dataset
from pipelines.decoding import fast_decode
from pipelines.decoding.staging import Staging
from pipelines.loading.items import wanted_of
from pipelines.support.cores import usable_cores

JPEGS, PLANES, ON_GPU = "JPEGs", "planes", "planes, resized on the GPU"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

study = Study(
    "planes_on_gpu", __doc__, images=4096, resolution=299, batch_size=256, workers=usable_cores(), quality=97, windows=5,
)  # fmt: skip


@study
def main(options: Any, result: Result) -> None:
    torch.set_num_threads(1)
    on_gpu = DEVICE == "cuda"
    with tempfile.TemporaryDirectory(prefix="planes-") as work:
        photos = write_photos(Path(work) / "photos", options.images, options.quality)
        subjects: dict[str, Subject] = {}
        for name, store in {JPEGS: "jpeg", PLANES: "planes", ON_GPU: "planes"}.items():
            if name == ON_GPU and not on_gpu:
                result.add_failure({"what": name}, "images/s", "no GPU here")
                continue
            output = Path(work) / store
            if not output.exists():
                prepare_shards(photos, output, "--store", store, "--workers", options.workers)
            subjects[name] = drained(partial(_Waiting, output, name == ON_GPU, options), ahead=AHEAD)
        measured = alternate(subjects, windows=options.windows)
        if on_gpu and measured[ON_GPU].windows:
            _add_gpu_time(Path(work) / "planes", options, result)
        _add_crossing(Path(work) / "planes", options, result)
    result.add_each({}, "what", "images/s", measured)
    for name, measurement in measured.items():
        if rates := [window.rate / window.cores for window in measurement.windows if window.cores]:
            result.add({"what": name}, "images/s a core", rates)
    for other in (PLANES, JPEGS):
        if on_gpu and measured[ON_GPU].windows and measured[other].windows:
            result.add({"what": f"{ON_GPU}, over {other}"}, "times as fast", measured[ON_GPU].over(measured[other]))
    result.note(
        f"{options.images} photos of 500 x 375 pixels to {options.resolution}, random crops of 8 to 100% of the area, batches of "
        f"{options.batch_size}, {options.workers} threads, on the {'GPU' if on_gpu else 'CPU'}."
    )


def _loader(data: Path, device: str, options: Any, **how: Any) -> Loader:
    dataset = open_dataset(data, "train", progress=False)
    shape = {name: getattr(options, name) for name in ("batch_size", "resolution", "workers")}
    plan = TrainPlan(len(dataset), options.batch_size, seed=1)
    return build_loader(dataset, plan, "native", device, **shape, **how)


def _add_crossing(data: Path, options: Any, result: Result) -> None:
    """What a GPU that resizes planes is sent of an epoch's images, and what it is sent of them once they are resized."""
    compiled, why = fast_decode.library()
    if compiled is None:
        result.add_failure({"what": ON_GPU}, "kB an image that cross", why)
        return
    staged = images = 0
    with _loader(data, "cpu", options) as loader:
        for task in loader._tasks():
            items, sizes = wanted_of(loader.dataset, task, slice(None)), loader.dataset.sizes(task.indices)
            staged += Staging(compiled, items, sizes, task.resolution).buffer.nbytes
            images += len(task)
    for name, size in {ON_GPU: staged / images, PLANES: 3 * options.resolution**2}.items():
        result.add({"what": name}, "kB an image that cross", size / 1000, higher_is_better=False)


def _add_gpu_time(data: Path, options: Any, result: Result) -> None:
    """What resizing takes of the GPU that a training's step would have."""
    with _loader(data, DEVICE, options, settings={"planes_on_device": True}) as loader:
        images = 0
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for batch in loader:
                images += len(batch.labels)
            torch.cuda.synchronize()
    busy = sum(event.self_device_time_total for event in profile.key_averages() if not event.key.startswith("Mem"))
    result.add({"what": ON_GPU}, "us of the GPU an image", busy / images, higher_is_better=False)


class _Waiting:
    """A loader that hands out a batch once it is on the device."""

    def __init__(self, data: Path, on_device: bool, options: Any) -> None:
        self.loader = _loader(data, DEVICE, options, settings={"planes_on_device": on_device})
        if on_device and "planes are resized on the GPU" not in self.loader.reason:
            raise BenchmarkError(self.loader.reason)
        self.close = self.loader.close

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            if batch.images.is_cuda:
                torch.cuda.current_stream().synchronize()
            yield batch


if __name__ == "__main__":
    study.start()
