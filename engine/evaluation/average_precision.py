"""Mean average precision of images with several labels."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.distributed.communicator import Communicator
from pipelines import Dataset


class AveragePrecision:
    """Collects what an evaluation answers about every class of every image (engine.graphs.multilabel_scorer), by the image's
    place in the dataset: the result is the same on any number of ranks. Memory: 4 bytes for each class of each image."""

    def __init__(self, dataset: Dataset, communicator: Communicator):
        assert dataset.combinations is not None
        self._communicator, device = communicator, communicator.device
        self._combinations = torch.from_numpy(dataset.combinations)
        self._probabilities = torch.zeros(len(dataset), self._combinations.shape[1], device=device)
        self._labels = torch.zeros(len(dataset), dtype=torch.int64, device=device)  # one more than each; 0: unreadable

    def add(self, images: Tensor, labels: Tensor, guesses: Tensor, confidence: Tensor, indices: Tensor) -> None:
        """One batch, as `MultilabelScorer` answers it; slots without a sample come last."""
        places, count = indices.to(self._labels.device), len(indices)
        self._probabilities[places] = confidence[:count]
        self._labels[places] = labels[:count] + 1

    def sum(self) -> None:
        """Adds up what the ranks collected; every rank must call it, at the end."""
        for collected in (self._probabilities, self._labels):
            self._communicator.sum(collected)

    def by_class(self) -> Tensor:
        """float32 (classes,): the average precision of each, 0..1; NaN for a class that no image has."""
        from torchmetrics.functional.classification import multilabel_average_precision  # takes a second

        counted = self._labels > 0
        probabilities, labels = self._probabilities[counted].cpu(), self._labels[counted].cpu() - 1
        wanted = self._combinations[labels].long()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about classes without images, which are left out
            precisions = multilabel_average_precision(probabilities, wanted, wanted.shape[1], average=None)
        return torch.where(wanted.sum(0) > 0, precisions, torch.nan)

    def result(self) -> dict[str, float]:
        """map: the mean over the classes that an image has, in percent."""
        return {"map": 100 * float(self.by_class().nanmean())}

    def save(self, path: Path, dataset: Dataset, row: dict[str, Any]) -> None:
        """Writes what was found to `path` as JSON, as `Findings.save` does: of each class its images, those of them to which
        the class was given at a probability of a half or more, and the average precision [percent]."""
        wanted = self._combinations[(self._labels - 1).clamp_min(0).cpu()].bool()
        wanted &= (self._labels > 0).cpu()[:, None]
        given = wanted & (self._probabilities.cpu() >= 0.5)
        precision = [None if value != value else round(100 * value, 4) for value in self.by_class().tolist()]
        found = {"images": wanted.sum(0).tolist(), "right": given.sum(0).tolist(), "matrix": None, "pictures": []}
        temporary = path.with_suffix(".tmp")
        content = {**row, "classes": list(dataset.classes), **found, "average_precision": precision}
        temporary.write_text(json.dumps(content))
        temporary.replace(path)
