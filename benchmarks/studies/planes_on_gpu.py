"""Planes that a GPU resizes beside planes that the loader's threads resize, and JPEGs.

    python benchmarks/studies/planes_on_gpu.py

The native loader in turns on the same photos of 500 x 375 pixels, each batch on the device before the next is asked for: images a
second, and a second of a core. Without a GPU the first is left out, and the others are measured on the CPU.
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
from pipelines.support.cores import usable_cores

JPEGS, PLANES, ON_GPU = "JPEGs", "planes", "planes, resized on the GPU"

study = Study(
    "planes_on_gpu", __doc__, images=4096, resolution=299, batch_size=256, workers=usable_cores(), quality=97, windows=5,
)  # fmt: skip


@study
def main(options: Any, result: Result) -> None:
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
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
    result.add_each({}, "what", "images/s", measured)
    for name, measurement in measured.items():
        if rates := [window.rate / window.cores for window in measurement.windows if window.cores]:
            result.add({"what": name}, "images/s a core", rates)
    if on_gpu:
        for other in (PLANES, JPEGS):
            result.add({"what": f"{ON_GPU}, over {other}"}, "times as fast", measured[ON_GPU].over(measured[other]))
    result.note(
        f"{options.images} photos of 500 x 375 pixels to {options.resolution}, random crops of 8 to 100% of the area, batches of "
        f"{options.batch_size}, {options.workers} threads, on the {'GPU' if on_gpu else 'CPU'}."
    )


class _Waiting:
    """A loader that hands out a batch once it is on the device."""

    def __init__(self, data: Path, on_device: bool, options: Any) -> None:
        dataset = open_dataset(data, "train", progress=False)
        shape = {name: getattr(options, name) for name in ("batch_size", "resolution", "workers")}
        plan = TrainPlan(len(dataset), options.batch_size, seed=1)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.loader: Loader = build_loader(
            dataset, plan, "native", device, settings={"planes_on_device": on_device}, **shape
        )
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
