"""What the parts of decoding cost on one core: ways to decode a JPEG for a crop, and ways to resize the crop.

    python benchmarks/studies/ffcv_parts.py

CPU time of one thread, in turns, over the same photos and random resized crops; and how near each comes to Pillow.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import ffcv.libffcv
import numpy as np
import torch
from PIL import Image
from rich.console import Console

from benchmarks.measuring.command_line import Parser, add_output_options, positive
from benchmarks.measuring.measure import Window, alternate
from benchmarks.reporting.results import RESULTS, Result
from benchmarks.studies.ffcv_loading import write_crops
from engine.faults.exit_status import DONE, run_entry_point
from pipelines import TrainPlan, open_dataset
from pipelines.loading.ffcv_decode import IS_JPEG, IS_RAW, JOB, Decoder

_BLOCK = 16  # pixels that a lossless crop has to begin at


class Photo(NamedTuple):
    """A JPEG, its pixels as Pillow decodes them, and a box: left, top, width, height."""

    data: np.ndarray
    pixels: np.ndarray
    box: tuple[int, int, int, int]


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    result = Result("ffcv_parts", vars(options))
    say = Console(highlight=False, soft_wrap=True).print
    photos = _photos(options)
    ways = _decoding() | _resizing(options.resolution)
    for name, way in ways.items():
        if way.wanted is not None:
            near = [_psnr(way.run(photo), way.wanted(photo)) for photo in photos]
            result.add({"way": name}, "dB from Pillow, median", float(np.median(near)), worst=min(near))
    subjects = {name: partial(_window, way, photos) for name, way in ways.items()}
    say(f"measuring {len(subjects)} ways in turns, {options.windows} windows each ...")
    for name, measurement in alternate(subjects, windows=options.windows, tolerant=False).items():
        milliseconds = [1000 / rate for rate in measurement.rates]
        result.add({"way": name}, "ms of CPU time an image", milliseconds, higher_is_better=False)
    shares = [box[2] * box[3] / (pixels.shape[0] * pixels.shape[1]) for _, pixels, box in photos]
    result.note(
        f"{len(photos)} photos of {np.mean([len(photo.data) for photo in photos]) / 1e3:.0f} KB on average, quality "
        f"{options.quality}; crops of {np.mean(shares):.0%} of the area on average; resized to {options.resolution} pixels"
    )
    result.print(("worst",))
    say(f"saved {result.save(options.output)}")
    return DONE


def _parser() -> Parser:
    parser = Parser("What ways to decode and to resize cost on one core.")
    parser.add_argument("--images", type=positive, default=200, help="photos, all different")
    parser.add_argument("--quality", type=positive, default=90, help="of their JPEGs")
    parser.add_argument("--resolution", type=positive, default=299, help="to resize to, in pixels")
    parser.add_argument("--windows", type=positive, default=7, help="measured windows of each")
    add_output_options(parser, RESULTS)
    return parser


def _photos(options: Any) -> list[Photo]:
    with tempfile.TemporaryDirectory(prefix="ffcv-") as work:
        write_crops(Path(work), options.images, options.quality)
        dataset = open_dataset(work, "train", progress=False)
        indices = np.arange(len(dataset))
        boxes = TrainPlan(len(dataset), len(dataset), seed=1).boxes(0, indices, dataset.sizes(indices))
        photos = []
        for index, box in zip(indices.tolist(), boxes.tolist()):
            data = np.array(dataset.read(index))
            photos.append(Photo(data, np.array(Image.open(io.BytesIO(data.tobytes())).convert("RGB")), tuple(box)))
        return photos


class Way(NamedTuple):
    """A way to do a part of the work, and the pixels that it should give, where it gives any."""

    run: Callable[[Photo], np.ndarray | None]
    wanted: Callable[[Photo], np.ndarray] | None = None


def _window(way: Way, photos: list[Photo]) -> Window:
    started = time.process_time()
    for photo in photos:
        way.run(photo)
    return Window(len(photos), time.process_time() - started)


def _psnr(found: np.ndarray | None, wanted: np.ndarray) -> float:
    assert found is not None
    error = np.mean((found.astype(float) - wanted) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def _decoding() -> dict[str, Way]:
    buffer = np.empty(3 * 640 * 640, np.uint8)
    decoder = Decoder()
    tiny = np.empty((1, 1, 1, 3), np.uint8)

    def whole(photo: Photo) -> np.ndarray:
        height, width = photo.pixels.shape[:2]
        ffcv.libffcv.imdecode(photo.data, buffer, height, width, height, width)
        return buffer[: 3 * height * width].reshape(height, width, 3)

    def cropped(photo: Photo) -> None:
        (height, width), (left, top, box_width, box_height) = photo.pixels.shape[:2], photo.box
        x, y = left // _BLOCK * _BLOCK, top // _BLOCK * _BLOCK
        crop_width = min(width - x, -(-(left + box_width - x) // _BLOCK) * _BLOCK)
        crop_height = min(height - y, -(-(top + box_height - y) // _BLOCK) * _BLOCK)
        ffcv.libffcv.imdecode(photo.data, buffer, height, width, crop_height, crop_width, x, y, enable_crop=True)

    def halved(photo: Photo) -> None:
        height, width = photo.pixels.shape[:2]
        ffcv.libffcv.imdecode(photo.data, buffer, height, width, height, width, 0, 0, 1, 2)

    def ours(photo: Photo, whole: bool) -> None:
        height, width = photo.pixels.shape[:2]
        left, top, _, box_height = (0, 0, width, height) if whole else photo.box
        # One pixel wide, so that next to nothing is resized.
        jobs = np.array([(0, len(photo.data), width, height, left, top, 1, box_height, 0, IS_JPEG)], JOB)
        decoder.run(-1, photo.data.copy(), jobs, tiny)

    return {
        "decode: libffcv's imdecode": Way(whole, lambda photo: photo.pixels),
        "decode: imdecode, a lossless crop first": Way(cropped),
        "decode: imdecode, scaled to a half": Way(halved),
        "decode: ours, the whole image": Way(partial(ours, whole=True)),
        "decode: ours, down to the end of the box": Way(partial(ours, whole=False)),
    }


def _resizing(size: int) -> dict[str, Way]:
    decoder = Decoder()
    out = np.empty((1, size, size, 3), np.uint8)

    def wanted(photo: Photo) -> np.ndarray:
        return np.asarray(_crop(photo).resize((size, size), Image.Resampling.BILINEAR))

    def ours(photo: Photo) -> np.ndarray:
        height, width = photo.pixels.shape[:2]
        jobs = np.array([(0, photo.pixels.size, width, height, *photo.box, 0, IS_RAW)], JOB)
        decoder.run(-1, photo.pixels.reshape(-1), jobs, out)
        return out[0]

    def opencv(photo: Photo) -> np.ndarray:
        left, top, width, height = photo.box
        ffcv.libffcv.resize_crop(photo.pixels, top, top + height, left, left + width, out[0])
        return out[0]

    def torchs(photo: Photo) -> np.ndarray:
        left, top, width, height = photo.box
        crop = torch.from_numpy(photo.pixels)[top : top + height, left : left + width].permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(crop, size=(size, size), mode="bilinear", antialias=True)
        return resized[0].permute(1, 2, 0).numpy()

    ways = {
        "resize: libffcv's (OpenCV, INTER_AREA)": opencv,
        "resize: Pillow's": wanted,
        "resize: torch's, antialiased": torchs,
        "resize: ours, from RGB": ours,
    }
    return {name: Way(way, wanted) for name, way in ways.items()}


def _crop(photo: Photo) -> Image.Image:
    left, top, width, height = photo.box
    return Image.fromarray(photo.pixels[top : top + height, left : left + width])


if __name__ == "__main__":
    run_entry_point(main)
