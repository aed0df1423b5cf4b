"""The ffcv backend beside FFCV's own loader, on the same file and cores: images a second, and how near to Pillow's pixels.

    python benchmarks/studies/ffcv_loading.py
    python benchmarks/studies/ffcv_loading.py --quality 97

Photos are random crops, 300 to 500 pixels a side, of the photographs that scikit-image and scikit-learn bring. All
loaders cut random resized crops from them and mirror half; the native backend and bare decoding stand beside.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import ffcv.libffcv
import numpy as np
import torch
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage
from PIL import Image, ImageOps
from rich.console import Console
from skimage import data
from sklearn.datasets import load_sample_images

from benchmarks.measuring.command_line import Parser, add_output_options, positive
from benchmarks.measuring.measure import Subject, Window, alternate, drained
from benchmarks.reporting.results import RESULTS, Result
from engine.faults.exit_status import DONE, run_entry_point
from pipelines import Dataset, TrainPlan, build_loader, open_dataset
from pipelines.decoding.whole_jpeg import usable
from pipelines.preparing.beton_writer import write_beton
from pipelines.support.cores import usable_cores

STOCK, GOAL = "FFCV's own loader", 2.0
_DISCARD = 5  # batches until stock FFCV has touched all its buffers
_COMPARED = 128  # images compared with Pillow's


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)  # as importing FFCV does; nothing here is torch's work
    say = Console(highlight=False, soft_wrap=True).print
    result = Result("ffcv_loading", vars(options))
    with tempfile.TemporaryDirectory(prefix="ffcv-") as work:
        say(f"making {options.images} photos ...")
        size = write_crops(Path(work) / "photos", options.images, options.quality)
        write_beton(partial(open_dataset, f"{work}/photos", "train", progress=False), Path(work) / "train.beton")
        dataset = open_dataset(work, "train", progress=False)
        for backend, pixels in (("ffcv", _ours), ("ffcv stock", _stock)):
            result.add(
                {"what": f"{backend}: median of {min(_COMPARED, options.images)} images"},
                "dB from Pillow",
                _near(pixels(dataset, options)),
            )
        used: dict[str, list[float]] = {}
        subjects = {
            name: partial(_metered, subject, options.images, used.setdefault(name, []))
            for name, subject in _subjects(dataset, options).items()
        }
        say(f"measuring {len(subjects)} subjects in turns, {options.windows} windows each ...")
        measured = alternate(subjects, windows=options.windows, tolerant=False)
    for name, measurement in measured.items():
        result.add({"what": name}, "images/s", measurement)
        milliseconds = used[name][-options.windows :]  # without the warm-up
        result.add({"what": name}, "ms of CPU time an image", milliseconds, higher_is_better=False)
    faster = measured["ffcv"].over(measured[STOCK])
    result.add(
        {"what": f"ffcv over {STOCK}"}, "times as fast", faster.value, interval=(faster.low, faster.high), goal=GOAL
    )
    result.note(
        f"{options.images} photos, {size / options.images / 1e3:.0f} KB each on average, quality {options.quality}, to "
        f"{options.resolution} pixels, batches of {options.batch_size}, {options.workers} threads, CPU only"
    )
    result.print()
    say(f"saved {result.save(options.output)}")
    return DONE


def _parser() -> Parser:
    parser = Parser("The ffcv backend beside FFCV's own loader.")
    parser.add_argument("--images", type=positive, default=1536, help="photos, all different")
    parser.add_argument("--quality", type=positive, default=90, help="of their JPEGs")
    parser.add_argument("--resolution", type=positive, default=299, help="of the batches, in pixels")
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--workers", type=positive, default=usable_cores(), help="threads of each")
    parser.add_argument("--windows", type=positive, default=7, help="measured windows of each")
    add_output_options(parser, RESULTS)
    return parser


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
    plan = _plan(dataset, options)
    image = [
        RandomResizedCropRGBImageDecoder((options.resolution, options.resolution)),
        RandomHorizontalFlip(), ToTensor(), ToTorchImage(),
    ]  # fmt: skip
    stock = Loader(
        f"{dataset.path}/train.beton", options.batch_size, options.workers, order=OrderOption.RANDOM, seed=0,
        pipelines={"image": image, "label": None},
    )  # fmt: skip
    return {
        "ffcv": drained(partial(build_loader, dataset, plan, "ffcv", **shape), discard=_DISCARD),
        STOCK: drained(lambda: (images for (images,) in stock), discard=_DISCARD),
        "native, on the same file": drained(partial(build_loader, dataset, plan, "native", **shape), discard=_DISCARD),
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


def _near(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Median PSNR in dB of images beside Pillow's."""
    errors = [np.mean((ours.astype(float) - wanted) ** 2) for ours, wanted in pairs]
    return float(np.median(10 * np.log10(255**2 / np.maximum(errors, 1e-3))))


def _compared(dataset: Dataset, options: Any) -> list[tuple[int, tuple[int, ...], bool, np.ndarray]]:
    """(image, box, mirrored, Pillow's pixels) of the first images of the plan."""
    plan, size = _plan(dataset, options), options.resolution
    indices = plan.order(0, np.arange(min(_COMPARED, plan.samples)))
    boxes, flips = plan.boxes(0, indices, dataset.sizes(indices)), plan.flips(0, indices)
    found = []
    for index, box, flip in zip(indices.tolist(), boxes.tolist(), flips.tolist()):
        left, top, width, height = box
        whole = Image.open(io.BytesIO(dataset.read(index).tobytes())).convert("RGB")
        crop = whole.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
        found.append((index, tuple(box), flip, np.asarray(ImageOps.mirror(crop) if flip else crop)))
    return found


def _ours(dataset: Dataset, options: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    wanted = [pixels for *_, pixels in _compared(dataset, options)]
    with build_loader(
        dataset, _plan(dataset, options), "ffcv", batch_size=options.batch_size, resolution=options.resolution
    ) as loader:
        ours = (image.permute(1, 2, 0).numpy() for batch in loader for image in batch.images)
        return list(zip(ours, wanted))


def _stock(dataset: Dataset, options: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """What FFCV's random resized crop does, step by step, on the plan's boxes: its own are drawn without a seed."""
    pairs = []
    for index, (left, top, width, height), flip, wanted in _compared(dataset, options):
        whole_width, whole_height = dataset.sizes(np.array([index]))[0].tolist()
        pixels = np.empty((whole_height, whole_width, 3), np.uint8)
        out = np.empty_like(wanted)
        ffcv.libffcv.imdecode(
            np.array(dataset.read(index)), pixels, whole_height, whole_width, whole_height, whole_width
        )
        ffcv.libffcv.resize_crop(pixels, top, top + height, left, left + width, out)
        pairs.append((out[:, ::-1] if flip else out, wanted))
    return pairs


if __name__ == "__main__":
    run_entry_point(main)
