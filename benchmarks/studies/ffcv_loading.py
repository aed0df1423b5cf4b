"""The ffcv backend beside FFCV's own loader, on the same file and cores: images a second, and how near to Pillow's pixels.

    python benchmarks/studies/ffcv_loading.py
    python benchmarks/studies/ffcv_loading.py --quality 97

Photos are random crops, 300 to 500 pixels a side, of the photographs that scikit-image and scikit-learn bring. All
loaders cut random resized crops from them and mirror half; the native backend and bare decoding stand beside.
"""

import io
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import ffcv.libffcv
import numpy as np
import torch
from PIL import Image, ImageOps
from skimage import data
from sklearn.datasets import load_sample_images

from benchmarks.measuring import Parser, Subject, Window, alternate, drained
from benchmarks.peers.loaders import DataJob, ffcv_reading
from benchmarks.reporting.results import Result
from engine.faults.exit_status import DONE, run_entry_point
from pipelines import Dataset, TrainPlan, build_loader, open_dataset
from pipelines.decoding.whole_jpeg import usable
from pipelines.preparing.beton_writer import write_beton
from pipelines.support.cores import usable_cores

STOCK, GOAL = "FFCV's own loader", 2.0
_AHEAD = 5  # batches until stock FFCV has touched all its buffers
_COMPARED = 128  # images compared with Pillow's


def main(arguments: Sequence[str]) -> int:
    options = Parser(
        "The ffcv backend beside FFCV's own loader.", images=1536, quality=90, resolution=299, batch_size=64,
        workers=usable_cores(), windows=7,
    ).parse_args(arguments)  # fmt: skip
    torch.set_num_threads(1)  # as importing FFCV does; nothing here is torch's work
    result = Result("ffcv_loading", options)
    with tempfile.TemporaryDirectory(prefix="ffcv-") as work:
        result.say(f"making {options.images} photos ...")
        size = write_crops(Path(work) / "photos", options.images, options.quality)
        write_beton(partial(open_dataset, f"{work}/photos", "train", progress=False), Path(work) / "train.beton")
        dataset = open_dataset(work, "train", progress=False)
        for backend, decibels in _near(dataset, options).items():
            case = {"what": f"{backend}: median of {len(decibels)} images"}
            result.add(case, "dB from Pillow", float(np.median(decibels)))
        used: dict[str, list[float]] = {}
        subjects = {name: partial(_metered, subject, options.images, used.setdefault(name, []))
                    for name, subject in _subjects(dataset, options).items()}  # fmt: skip
        result.say(f"measuring {len(subjects)} subjects in turns, {options.windows} windows each ...")
        measured = alternate(subjects, windows=options.windows, tolerant=False)
    result.add_each({}, "what", "images/s", measured)
    milliseconds = {name: values[-options.windows :] for name, values in used.items()}  # without the warm-up
    result.add_each({}, "what", "ms of CPU time an image", milliseconds, higher_is_better=False)
    result.add({"what": f"ffcv over {STOCK}"}, "times as fast", measured["ffcv"].over(measured[STOCK]), goal=GOAL)
    result.note(
        f"{options.images} photos, {size / options.images / 1e3:.0f} KB each on average, quality {options.quality}, to "
        f"{options.resolution} pixels, batches of {options.batch_size}, {options.workers} threads, CPU only"
    )
    result.finish()
    return DONE


def write_crops(folder: Path, count: int, quality: int) -> int:
    """Writes crops of photographs to folder/train, in class folders; returns their bytes."""
    pictures = [*load_sample_images().images, data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    generator = np.random.default_rng(0)
    total = 0
    for number in range(count):
        picture = pictures[number % len(pictures)]
        height, width = (int(generator.integers(min(300, side), min(500, side) + 1)) for side in picture.shape[:2])
        top, left = (int(generator.integers(0, side - cut + 1)) for side, cut in zip(picture.shape, (height, width)))
        path = folder / f"train/class{number % 4}/{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[top : top + height, left : left + width]).save(path, quality=quality)
        total += path.stat().st_size
    return total


def _plan(dataset: Dataset, options: Any) -> TrainPlan:
    return TrainPlan(len(dataset), options.batch_size, seed=1)


def _subjects(dataset: Dataset, options: Any) -> dict[str, Subject]:
    shape = {"batch_size": options.batch_size, "resolution": options.resolution, "workers": options.workers}
    ours = partial(build_loader, dataset, _plan(dataset, options), **shape)
    stock = ffcv_reading(Path(dataset.path) / "train.beton", DataJob(Path(), Path(), **shape))
    return {
        "ffcv": drained(partial(ours, backend="ffcv"), ahead=_AHEAD),
        STOCK: drained(stock, ahead=_AHEAD),
        "native, on the same file": drained(partial(ours, backend="native"), ahead=_AHEAD),
        "decoding alone, whole images": partial(_decoded, dataset, options),
    }


def _metered(subject: Subject, images: int, used: list[float]) -> Window:
    """The subject's window; notes the CPU time of its whole pass, which others on the machine hardly change."""
    started = time.process_time()
    window = subject()
    used.append(1000 * (time.process_time() - started) / images)
    return window


def _decoded(dataset: Dataset, options: Any) -> Window:
    """libjpeg-turbo on every image, in as many threads, with nothing else to do."""
    encoded = [torch.from_numpy(np.array(dataset.read(index))) for index in range(len(dataset))]
    with ThreadPoolExecutor(options.workers) as pool:
        started = time.perf_counter()
        for _ in pool.map(usable()[0].decode, encoded):
            pass
        return Window(len(encoded), time.perf_counter() - started)


def _near(dataset: Dataset, options: Any) -> dict[str, list[float]]:
    """dB between our pixels and Pillow's, and between FFCV's and Pillow's, of the first images of the plan."""
    plan, size = _plan(dataset, options), options.resolution
    shape = {"batch_size": options.batch_size, "resolution": size}
    with build_loader(dataset, plan, "ffcv", **shape) as loader:
        ours = [image.permute(1, 2, 0).numpy().copy() for batch in loader for image in batch.images][:_COMPARED]
    indices = plan.order(0, np.arange(len(ours)))
    boxes, flips = plan.boxes(0, indices, dataset.sizes(indices)), plan.flips(0, indices)
    found: dict[str, list[float]] = {"ffcv": [], "ffcv stock": []}
    for index, box, flip, own in zip(indices.tolist(), boxes.tolist(), flips.tolist(), ours):
        left, top, width, height = box
        whole = Image.open(io.BytesIO(dataset.read(index).tobytes())).convert("RGB")
        crop = whole.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
        wanted = np.asarray(ImageOps.mirror(crop) if flip else crop)
        # What FFCV's random resized crop does, step by step, on the plan's box: its own are drawn without a seed.
        pixels, stock = np.empty((whole.height, whole.width, 3), np.uint8), np.empty_like(wanted)
        ffcv.libffcv.imdecode(np.array(dataset.read(index)), pixels, *pixels.shape[:2], *pixels.shape[:2])
        ffcv.libffcv.resize_crop(pixels, top, top + height, left, left + width, stock)
        for name, image in (("ffcv", own), ("ffcv stock", stock[:, ::-1] if flip else stock)):
            error = np.mean((image.astype(float) - wanted) ** 2)
            found[name].append(float(10 * np.log10(255**2 / max(error, 1e-3))))
    return found


if __name__ == "__main__":
    run_entry_point(main)
