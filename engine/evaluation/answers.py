"""The answer to every image of an evaluation, and what follows from all of them: accuracy by class, calibration."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.distributed.communicator import Communicator

BINS = 15  # of "On Calibration of Modern Neural Networks" (arXiv 1706.04599)


class Answers:
    """Keeps the most likely classes of every image; after `sum` those of all ranks, in the order of the dataset.

    indices int64 (n,): the images' places in the dataset; labels int64 (n,), -1 for those that could not be read; guesses int64
    (n, k) and probabilities float32 (n, k), the most likely first. All on the host.
    """

    def __init__(self, communicator: Communicator):
        self._communicator = communicator
        self._kept: list[tuple[Tensor, ...]] = []
        self.indices, self.labels = (torch.zeros(0, dtype=torch.int64) for _ in range(2))
        self.guesses, self.probabilities = torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, 1)

    def add(self, images: Tensor, labels: Tensor, guesses: Tensor, confidence: Tensor, indices: Tensor) -> None:
        """One batch, as `Findings.add` takes it."""
        count = len(indices)  # without what fills a batch up
        self._kept.append((indices, labels[:count], guesses[:count], confidence[:count]))

    def sum(self) -> None:
        """Puts the ranks' answers together; every rank must call it, at the end."""
        own = tuple(torch.cat(parts).cpu().numpy() for parts in zip(*self._kept))
        ranks = [answers for answers in self._communicator.gather(own) if answers]
        indices, labels, guesses, probabilities = (
            torch.cat([torch.from_numpy(part) for part in parts]) for parts in zip(*ranks)
        )
        order = indices.argsort()
        self.indices, self.labels = indices[order], labels[order]
        self.guesses, self.probabilities = guesses[order], probabilities[order]

    def by_class(self, names: Sequence[str]) -> dict[str, Any]:
        """`per_class`, of every class with images: `class`, `images`, `top1` and `top5` in percent (recall), and `precision`, the
        share of the images taken for it that are of it, null where none was; `mean_class_top1` over these classes."""
        read = self.labels >= 0
        labels, guesses = self.labels[read], self.guesses[read]
        right = guesses == labels[:, None]
        count = len(names)
        images, guessed = torch.bincount(labels, minlength=count), torch.bincount(guesses[:, 0], minlength=count)
        first = torch.bincount(labels[right[:, 0]], minlength=count)
        five = torch.bincount(labels[right.any(1)], minlength=count)
        rows = [
            {
                "class": names[k],
                "images": int(images[k]),
                "top1": 100 * int(first[k]) / int(images[k]),
                "top5": 100 * int(five[k]) / int(images[k]),
                "precision": 100 * int(first[k]) / int(guessed[k]) if guessed[k] else None,
            }
            for k in images.nonzero()[:, 0].tolist()
        ]
        return {"mean_class_top1": sum(row["top1"] for row in rows) / len(rows), "per_class": rows}

    def calibration(self) -> dict[str, Any]:
        """`ece`, the expected calibration error of the first guess over 15 bins of equal width, `mce`, that of the worst bin,
        `confidence`, the mean (all in percent), and `reliability`: of every bin that has some its `images`, mean `confidence` and
        `accuracy`."""
        from torchmetrics.functional.classification import binary_calibration_error  # slow to import

        read = self.labels >= 0
        right = self.guesses[read, 0] == self.labels[read]
        # Sums of probabilities may round to more than 1, and torchmetrics gives 1 itself a bin of its own.
        confidence = self.probabilities[read, 0].double().clamp(0, 1 - 1e-12)
        ece, mce = (
            float(binary_calibration_error(confidence, right.long(), n_bins=BINS, norm=norm)) for norm in ("l1", "max")
        )
        places = (confidence * BINS).long()
        reliability = []
        for place in places.unique().tolist():
            here = places == place
            row = {
                "confidence": 100 * float(confidence[here].mean()),
                "accuracy": 100 * float(right[here].double().mean()),
            }
            reliability.append({"images": int(here.sum()), **row})
        return {
            "ece": 100 * ece,
            "mce": 100 * mce,
            "confidence": 100 * float(confidence.mean()),
            "reliability": reliability,
        }
