"""Accuracy of a network on a split, counting every image exactly once on any number of ranks."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config.options import ConfigError
from engine.distributed.strategy import Strategy
from engine.evaluation.findings import Findings
from pipelines import Loader


def evaluate(
    score: Callable[..., Any], loader: Loader, batch_size: int, strategy: Strategy, findings: Findings | None = None
) -> dict[str, Any]:
    """Runs `score` (an engine.graphs.step.Scorer, perhaps compiled) over the loader's split.

    Every rank must call it. Returns top1 and top5 in percent, the mean cross-entropy `loss`, the number of images
    counted, and `unreadable`, those that could not be decoded and therefore do not count. `findings` collects what was
    taken for what.
    """
    totals = torch.zeros(4, dtype=torch.float64, device=strategy.device)
    loader.set_epoch(0)
    with torch.no_grad():
        for batch in loader:
            images, labels = _padded(batch.images, batch.labels, batch_size)
            sums, guesses, confidence = score(images, labels)
            totals += sums
            if findings is not None:
                findings.add(images, labels, guesses, confidence, batch.indices)
    if findings is not None:
        findings.sum()
    count, top1, top5, loss = strategy.sum(totals).tolist()
    expected = len(loader.dataset)
    if count == 0:
        raise ConfigError(f"none of the {expected} evaluation images could be read")
    return {
        "top1": 100 * top1 / count,
        "top5": 100 * top5 / count,
        "loss": loss / count,
        "count": int(count),
        "unreadable": expected - int(count),
    }


def _padded(images: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The last batch filled up to `size` with slots that do not count: one shape, so one compiled graph."""
    missing = size - len(labels)
    if missing == 0:
        return images, labels
    return F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)), F.pad(labels, (0, missing), value=-1)
