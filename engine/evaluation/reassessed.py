"""ReaL: ImageNet's validation images with all labels that fit each ("Are we done with ImageNet?", arXiv 2006.07159)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config.options import ConfigError
from engine.distributed.communicator import Communicator
from inception.weights.published import imagenet_classes
from pipelines import Dataset

_NUMBER = re.compile(r"val_(\d{8})")  # ILSVRC2012_val_00000001.JPEG is the first


class Reassessed:
    """Counts how often the first guess is among an image's labels; images without any do not count.

    file: real.json, a list of lists of ImageNet's places 0 to 999, one list an image; classes: the network's outputs by WordNet
    number. Raises ConfigError for another file, other classes, or a dataset with images of other names.
    """

    def __init__(self, file: str, dataset: Dataset, classes: Sequence[str] | None, communicator: Communicator):
        try:
            lists = json.loads(Path(file).expanduser().read_text())
            fitting = [frozenset(map(int, labels)) for labels in lists]
        except OSError as error:
            raise ConfigError(f"ReaL labels {file} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError):
            raise ConfigError(f"{file} holds no ReaL labels: a JSON list of lists of numbers is expected") from None
        places = {name: place for place, name in enumerate(imagenet_classes())}
        self._place_of = [places.get(name, -1) for name in classes or ()]
        if max(self._place_of, default=-1) < 0:
            raise ConfigError(
                "ReaL labels are ImageNet's: the network's outputs need WordNet numbers (--weights.classes FILE)"
            )
        self._labels: dict[int, frozenset[int]] = {}
        for index in range(len(dataset)):
            found = _NUMBER.search(dataset.short_name(index))
            if found is None or not 0 < int(found[1]) <= len(fitting):
                raise ConfigError(
                    f"{dataset.name(index)} has no number that {file} knows; images are named ILSVRC2012_val_..."
                )
            self._labels[index] = fitting[int(found[1]) - 1]
        self._communicator = communicator
        self._counted = self._right = 0

    def add(self, images: Tensor, labels: Tensor, guesses: Tensor, confidence: Tensor, indices: Tensor) -> None:
        """One batch, as `Findings.add` takes it."""
        for label, guess, index in zip(labels.tolist(), guesses[:, 0].tolist(), indices.tolist()):
            fitting = self._labels[index] if label >= 0 else frozenset()
            self._counted += bool(fitting)
            self._right += self._place_of[guess] in fitting

    def sum(self) -> None:
        """Adds the ranks' counts up; every rank must call it, at the end."""
        totals = torch.tensor([self._counted, self._right], dtype=torch.float64, device=self._communicator.device)
        self._counted, self._right = map(int, self._communicator.sum(totals).tolist())

    def result(self) -> dict[str, Any]:
        """`real_top1` in percent and `real_count`, the images that it counts."""
        return {"real_top1": 100 * self._right / max(self._counted, 1), "real_count": self._counted}
