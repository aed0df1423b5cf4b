"""From names on a command line to predictions: images found, read as evaluation reads them, classified in batches."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.config.options import ConfigError
from engine.evaluation.settings import Settings
from engine.inference.models import Model
from pipelines import DataError
from pipelines.datasets.folders import images_below
from pipelines.datasets.passed_over import PassedOver
from pipelines.datasets.source import Aside
from pipelines.decoding.decode import crop_resize, decode
from pipelines.support.cores import usable_cores

WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Guess:
    """One class that an image may show: its name, its index among the classes, and how sure the network is."""

    name: str
    index: int
    percent: float


@dataclass(frozen=True)
class Prediction:
    """What the network says about one image, most likely class first; or why the image could not be read."""

    image: Path
    guesses: tuple[Guess, ...] = ()
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: `image` and either `predictions` (`class`, `index`, `percent`) or `problem`."""
        if self.problem:
            return {"image": str(self.image), "problem": self.problem}
        guesses = [{"class": g.name, "index": g.index, "percent": round(g.percent, 4)} for g in self.guesses]
        return {"image": str(self.image), "predictions": guesses}


def find_images(names: Iterable[str]) -> tuple[list[Path], PassedOver]:
    """The files that the names stand for, each once, in order: files as they are, folders searched through, wildcards; and
    what was passed over in folders, where training would pass it over too.

    Raises ConfigError for a name that stands for nothing, or cannot be read.
    """
    found: dict[Path, None] = {}
    aside = Aside.none()
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            try:
                images = [path / name for name in images_below(path, "", aside)]
            except OSError as error:
                raise ConfigError(f"{error.filename or path} cannot be read: {error.strerror}") from None
            if not images:
                raise ConfigError(f"no images in {path}, by their names (.jpg, .png, ...)")
        elif not path.exists() and WILDCARDS & set(name):
            matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute patterns)
            images = sorted(match for match in matches if match.is_file())
            if not images:
                raise ConfigError(f"no file matches {name}")
        elif path.exists():
            images = [path]
        else:
            raise ConfigError(f"there is no image {path}")
        found.update(dict.fromkeys(images))
    return list(found), aside.passed_over


def read_image(path: Path, settings: Settings) -> Tensor:
    """uint8 (3, size, size): the image as evaluation shows it. DataError when it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror}") from None
    image = decode(data, settings.exif)
    displayed = np.array([[image.shape[2], image.shape[1]]], np.int32)
    plan, first = settings.plan(1, 1), np.zeros(1, np.int64)
    boxes = plan.boxes(0, first, displayed)
    view = plan.views(boxes, settings.resolution)[0].tolist()
    return crop_resize(
        image, boxes[0].tolist(), settings.resolution, view=view, bicubic=bool(plan.bicubic(0, first)[0])
    )


def predict(model: Model, images: Sequence[Path], batch_size: int, top: int = 5) -> Iterator[Prediction]:
    """The `top` guesses for each image, in order, classified `batch_size` at a time while the next batch is decoded."""
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    with ThreadPoolExecutor(usable_cores()) as threads:
        ahead = _start(threads, model, batches[0]) if batches else []
        for number, batch in enumerate(batches):
            reading, ahead = ahead, _start(threads, model, batches[number + 1]) if number + 1 < len(batches) else []
            yield from _classify(model, batch, reading, top)


def _start(threads: ThreadPoolExecutor, model: Model, batch: Sequence[Path]) -> list[Future[Tensor]]:
    return [threads.submit(read_image, path, model.settings) for path in batch]


def _classify(model: Model, batch: Sequence[Path], reading: Sequence[Future[Tensor]], top: int) -> Iterator[Prediction]:
    pixels, problems = [], {}
    for path, future in zip(batch, reading):
        try:
            pixels.append(future.result())
        except DataError as error:
            problems[path] = str(error)
    probabilities = iter(model.probabilities(torch.stack(pixels)) if pixels else ())
    for path in batch:
        if path in problems:
            yield Prediction(path, problem=problems[path])
        else:
            yield Prediction(path, _guesses(next(probabilities), model.classes, top))


def _guesses(probabilities: Tensor, classes: Sequence[str], top: int) -> tuple[Guess, ...]:
    values, indices = probabilities.topk(min(top, len(classes)))
    return tuple(Guess(classes[i], i, 100 * value) for value, i in zip(values.tolist(), indices.tolist()))
