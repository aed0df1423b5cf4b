"""Several passes over a split whose predictions are averaged: crops of each image, and networks."""

import torch
from torch import Tensor

from engine.evaluation.settings import Settings
from engine.graphs.scorer import Scorer
from pipelines import EvalPlan, Loader
from pipelines.plan.crops import four_sizes, hundred_and_forty_four, ten

CROPS = (1, 10, 144)


def crop_plans(settings: Settings, crops: int, plan: EvalPlan) -> list[tuple[EvalPlan, float]]:
    """The plan of a pass for each of so many `crops` (one of `CROPS`) of the images of `plan`, with its share in their mean. Half
    of several crops are mirror images, which a network is shown in the same pass. The last pass shows the middle."""
    if crops == 1:
        return [(plan, 1.0)]
    if crops == 10:
        return [*ten(plan, _resize(settings))]
    return [*hundred_and_forty_four(plan, four_sizes(settings.resolution))]


def crops_in_words(settings: Settings, crops: int) -> str:
    """What several crops are."""
    sizes = [_resize(settings)] if crops == 10 else four_sizes(settings.resolution)
    return (
        f"{crops} crops of {settings.resolution} pixels from images whose shorter side is resized to "
        f"{', '.join(map(str, sizes))}, mirror images among them"
    )


def _resize(settings: Settings) -> int:
    return settings.resize or round(settings.resolution / settings.crop_fraction)


class Earlier:
    """What the passes before the last one gave, batch by batch on this rank's device: the sum of their shares of probabilities,
    float32 (N, classes), and labels, int64 (N,), -1 where one of them could not read the image."""

    def __init__(self) -> None:
        self.probabilities: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, scorer: Scorer, loader: Loader, share: float) -> None:
        """One more pass, over the same samples in the same batches."""
        loader.set_epoch(0)
        with torch.no_grad():
            for number, batch in enumerate(loader):
                found = share * scorer.probabilities(batch.images)
                if number == len(self.labels):
                    self.probabilities.append(found)
                    self.labels.append(batch.labels)
                else:
                    self.probabilities[number] += found
                    self.labels[number] = torch.minimum(self.labels[number], batch.labels)
