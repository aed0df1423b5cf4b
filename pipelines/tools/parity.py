"""How far every backend's pixels are from Pillow's: the table of docs/pipelines.md.

    python pipelines/tools/parity.py [--size 299] [--photos 64]

The photographs are crops of 300 to 500 pixels of those that scikit-image and scikit-learn ship (the `dev` extra), as
JPEGs of quality 90. Each is cut and mirrored as the plan says and resized bilinearly with antialiasing; the figure is
the peak signal-to-noise ratio in decibels: 48 dB is a mean difference of one level in 256.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from collections.abc import Sequence
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageOps

from pipelines import Dataset, EvalPlan, TrainPlan, build_loader, open_dataset
from pipelines.loading.backends import BACKENDS
from pipelines.plan.plan import Plan
from pipelines.support.entry_point import DONE, Parser, run_entry_point
from pipelines.support.errors import DataError
from pipelines.support.work_sharing import Ranks


def photos(count: int) -> list[Image.Image]:
    """Crops of 300 to 500 pixels a side of the photographs that scikit-image and scikit-learn ship; always the same."""
    try:
        from skimage import data
        from sklearn.datasets import load_sample_images
    except ModuleNotFoundError as error:
        raise DataError(f"{error.name} is not installed: pip install 'inception-training[dev]'") from None
    pictures = [*load_sample_images().images, data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    generator = np.random.default_rng(0)
    crops = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        height, width = (int(generator.integers(min(300, side), min(500, side) + 1)) for side in picture.shape[:2])
        top, left = (int(generator.integers(0, side - cut + 1)) for side, cut in zip(picture.shape, (height, width)))
        crops.append(Image.fromarray(np.ascontiguousarray(picture[top : top + height, left : left + width])))
    return crops


def ratios(dataset: Dataset, plan: Plan, backend: str, size: int) -> list[float]:
    """The peak signal-to-noise ratio (dB) of each sample of an epoch against Pillow, 99 for equal pixels."""
    found = []
    with build_loader(dataset, plan, backend, batch_size=16, resolution=size) as loader:
        for batch in loader:
            indices = batch.indices.numpy()
            boxes, flips = plan.boxes(0, indices, dataset.sizes(indices)), plan.flips(0, indices)
            views, bicubic = plan.views(boxes, size), plan.bicubic(0, indices)
            for slot, index in enumerate(indices.tolist()):
                how = (boxes[slot], views[slot], bool(bicubic[slot]), bool(flips[slot]))
                wanted = reference(dataset, index, *how, size)
                error = np.mean((batch.images[slot].cpu().permute(1, 2, 0).numpy() - wanted) ** 2)
                found.append(float(10 * np.log10(255**2 / error)) if error else 99.0)
    return found


def reference(
    dataset: Dataset, index: int, box: np.ndarray, view: np.ndarray, bicubic: bool, flip: bool, size: int
) -> np.ndarray:
    """float64 (size, size, 3): Pillow's crop, resize, and crop of that, of a sample as it is displayed."""
    from io import BytesIO

    left, top, width, height = box.tolist()
    across, down, x, y = view.tolist()
    with Image.open(BytesIO(dataset.read(index).data)) as file:
        image = (ImageOps.exif_transpose(file) if dataset.exif else file).convert("RGB")
    resampling = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    image = image.crop((left, top, left + width, top + height)).resize((across, down), resampling)
    image = image.crop((x, y, x + size, y + size))
    return np.asarray(ImageOps.mirror(image) if flip else image, np.float64)


def table(size: int, count: int) -> str:
    """The figures of every installed backend, in Markdown."""
    lines = ["| backend | training, median | worst | evaluation, median | worst |", "|---|---|---|---|---|"]
    with TemporaryDirectory() as folder:
        (Path(folder) / "files/train/photo").mkdir(parents=True)
        for number, photo in enumerate(photos(count)):
            photo.save(Path(folder) / f"files/train/photo/{number:03d}.jpg", quality=90)
        files = partial(open_dataset, Path(folder) / "files", "train", progress=False)
        for name, backend in BACKENDS.items():
            if name != "synthetic" and backend.installed():
                dataset = _as_beton(files, Path(folder)) if name == "ffcv" else files()
                figures = []
                for plan in (TrainPlan(count, 16, drop_last=False), EvalPlan(count, 16)):
                    found = ratios(dataset, plan, name, size)
                    figures += [f"{np.median(found):.1f}", f"{min(found):.1f}"]
                lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _as_beton(files: partial[Dataset], folder: Path) -> Dataset:
    from pipelines.preparing.beton_writer import write_beton

    (folder / "beton").mkdir()
    write_beton(files, folder / "beton/train.beton")
    return open_dataset(folder / "beton", "train", progress=False)


def main(arguments: Sequence[str], ranks: Ranks | None) -> int:
    parser = Parser(prog="pipelines/tools/parity.py", description="Compare every backend's pixels with Pillow's.")
    parser.add_argument("--size", type=int, default=299, help="side of the images [pixels] (default: 299)")
    parser.add_argument("--photos", type=int, default=64, help="photographs compared (default: 64)")
    options = parser.parse_args(arguments)
    if options.size < 1 or options.photos < 1:
        raise DataError("--size and --photos must be at least 1")
    print(f"PSNR against Pillow in dB, {options.photos} photographs, {options.size} x {options.size} pixels\n")
    print(table(options.size, options.photos))
    return DONE


if __name__ == "__main__":
    run_entry_point(main)
