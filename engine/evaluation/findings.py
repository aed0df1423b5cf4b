"""What a network takes for what: the confusion matrix of an evaluation, and some pictures of right and wrong answers."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from engine.distributed.communicator import Communicator
from pipelines import Dataset

MOST_CLASSES = 1000
_PICTURES = 12
_THUMBNAIL = 96


class Findings:
    """Collects an evaluation's answers on the device, without waiting for it.

    The counts are exact on any number of ranks: every image counts once. The pictures are of the first rank's share: its
    most confident wrong answers, and right answers chosen by a hash of their place, the same ones every time.
    """

    def __init__(self, classes: int, communicator: Communicator):
        self.classes = classes
        self._communicator = communicator
        self._rows = classes if classes <= MOST_CLASSES else 0
        # Above MOST_CLASSES the matrix would be too large: only its diagonal and the sums of its rows are kept.
        size = classes * classes if self._rows else 2 * classes
        self._counts = torch.zeros(size, dtype=torch.int64, device=communicator.device)
        self._wrong, self._right = Gallery(), Gallery()
        self._seen = 0
        self._indices: list[Tensor] = []

    def add(self, images: Tensor, labels: Tensor, guesses: Tensor, confidence: Tensor, indices: Tensor) -> None:
        """One batch: images uint8 (N, 3, H, W), labels int64 (N,) with -1 for slots that do not count, the classes
        guessed int64 (N, k), the most likely first, their probabilities (N, k), and the samples' places in the dataset, int64 on
        the host."""
        guesses, confidence = guesses[:, 0], confidence[:, 0]
        counts = labels >= 0
        truth, right = labels.clamp_min(0), labels == guesses
        if self._rows:
            self._counts.index_add_(0, truth * self.classes + guesses, counts.long())
        else:
            self._counts.index_add_(0, truth, counts.long())
            self._counts.index_add_(0, truth + self.classes, (counts & right).long())
        if self._communicator.is_main:
            place = torch.arange(self._seen, self._seen + len(labels), device=labels.device)
            answers = torch.stack([labels, guesses, place], dim=1)
            never = torch.full_like(confidence, -1.0)
            self._wrong.add(torch.where(counts & ~right, confidence, never), images, answers, confidence)
            hashed = ((place * 2654435761) % 4294967296).to(confidence.dtype) / 4294967296
            self._right.add(torch.where(right, hashed, never), images, answers, confidence)
            # A batch filled up to its size has more slots than samples; the filling is never chosen.
            self._indices.append(F.pad(indices, (0, len(labels) - len(indices)), value=-1))
        self._seen += len(labels)

    def sum(self) -> None:
        """Adds the ranks' counts up; every rank must call it, at the end."""
        self._counts = self._communicator.sum(self._counts)

    @property
    def matrix(self) -> Tensor | None:
        """int64 (classes, classes): images of a row's class taken for a column's; None above MOST_CLASSES classes."""
        return self._counts.view(self.classes, self.classes) if self._rows else None

    def by_class(self) -> tuple[Tensor, Tensor]:
        """int64 (classes,) twice: images of each class, and those that were right."""
        matrix = self.matrix
        if matrix is not None:
            return matrix.sum(dim=1), matrix.diagonal()
        return self._counts[: self.classes], self._counts[self.classes :]

    def pictures(self, dataset: Dataset) -> list[dict[str, Any]]:
        """The chosen pictures: label, guess, confidence, name of the sample, and a JPEG in base64; wrong ones first."""
        indices = torch.cat(self._indices) if self._indices else torch.zeros(0, dtype=torch.int64)
        chosen = [*self._wrong.pictures(), *self._right.pictures()]
        return [{"name": dataset.short_name(int(indices[picture.pop("place")])), **picture} for picture in chosen]

    def save(self, path: Path, dataset: Dataset, row: dict[str, Any]) -> None:
        """Writes what was found to `path` as JSON, replacing at once what was there, with the evaluation's own `row`."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.found(dataset, row)))
        temporary.replace(path)

    def found(self, dataset: Dataset, row: dict[str, Any]) -> dict[str, Any]:
        """What was found, JSON-able, with the evaluation's own `row`.

        The matrix is a list of [true class, guessed class, images] where it is not zero; null above MOST_CLASSES classes.
        """
        images, right = (counts.tolist() for counts in self.by_class())
        entries = None
        if self.matrix is not None:
            matrix = self.matrix.cpu()
            places = matrix.nonzero()
            entries = torch.cat([places, matrix[places[:, 0], places[:, 1]][:, None]], dim=1).tolist()
        found = {"images": images, "right": right, "matrix": entries, "pictures": self.pictures(dataset)}
        return {**row, "classes": list(dataset.classes), **found}


class Gallery:
    """The few images of highest rank among all that passed by, kept on their device."""

    def __init__(self, size: int = _PICTURES):
        self._size = size
        self._kept: list[Tensor] = []

    def add(self, rank: Tensor, images: Tensor, answers: Tensor, confidence: Tensor) -> None:
        """rank (N,), below 0 for images not wanted; images (N, 3, H, W); answers int64 (N, 3): label, guess, place."""
        best = rank.topk(min(self._size, len(rank)))
        chosen = best.indices
        found = [best.values, images[chosen], answers[chosen], confidence[chosen]]
        if self._kept:
            found = [torch.cat(pair) for pair in zip(self._kept, found)]
            chosen = found[0].topk(min(self._size, len(found[0]))).indices
            found = [tensor[chosen] for tensor in found]
        self._kept = found

    def pictures(self) -> list[dict[str, Any]]:
        """label, guess, place, confidence and a JPEG in base64 of each, the highest rank first."""
        if not self._kept:
            return []
        rank, images, answers, confidence = (tensor.cpu() for tensor in self._kept)
        names = ("label", "guess", "place")
        return [
            {
                **dict(zip(names, answers[k].tolist())),
                "confidence": round(float(confidence[k]), 4),
                "jpeg": thumbnail(images[k]),
            }
            for k in range(len(rank))
            if rank[k] >= 0
        ]


def thumbnail(image: Tensor) -> str:
    """A uint8 (3, H, W) image, shrunk if it is large, as a JPEG in base64."""
    if image.shape[-1] > _THUMBNAIL:
        image = F.interpolate(image[None].float(), size=_THUMBNAIL, mode="bilinear", antialias=True)[0].round().byte()
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
