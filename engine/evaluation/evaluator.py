"""Accuracy of a network on a split, counting every image exactly once on any number of ranks."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config.options import ConfigError
from engine.distributed.communicator import Communicator
from engine.evaluation.average_precision import AveragePrecision
from engine.evaluation.findings import Findings
from engine.evaluation.passes import Earlier
from engine.evaluation.recalibration import recalibrate
from engine.graphs.scorer import Scorer
from pipelines import Batch, Loader


class Average(Protocol):
    """Averaged weights that can stand in for a network's own."""

    def applied(self) -> contextlib.AbstractContextManager[None]:
        """Within it, the network holds the averaged weights."""

    def buffers(self, network: nn.Module) -> list[Tensor]:
        """The averages of `network`'s buffers."""


class Collector(Protocol):
    """Looks at the answers of an evaluation, batch by batch; `sum` is called once on every rank at its end."""

    def add(self, images: Tensor, labels: Tensor, guesses: Tensor, confidence: Tensor, indices: Tensor) -> None:
        """One batch, as `Findings.add` has it."""

    def sum(self) -> None:
        """Adds the ranks' counts up."""


class Together:
    """Several collectors as one."""

    def __init__(self, *collectors: Collector):
        self._collectors = collectors

    def add(self, images: Tensor, labels: Tensor, guesses: Tensor, confidence: Tensor, indices: Tensor) -> None:
        for collector in self._collectors:
            collector.add(images, labels, guesses, confidence, indices)

    def sum(self) -> None:
        for collector in self._collectors:
            collector.sum()


class Evaluator:
    """Scores a run's network on its validation split, as often as it is asked to.

    scorer: the graph of an evaluation step, and score: the same, perhaps compiled. `statistics` are those of batch
    normalisation that were measured anew for the weights as they are, by name; a part of the run's state, so that every file
    of the step holds them. Every rank must call each method.
    """

    def __init__(
        self, scorer: Scorer, score: Callable[..., Any], loader: Loader, batch_size: int, communicator: Communicator
    ):
        self.scorer, self.score, self.loader, self.batch_size = scorer, score, loader, batch_size
        self._communicator = communicator
        self.statistics: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def standing_in(self, network: nn.Module, average: Average | None) -> Iterator[None]:
        """Within it, `network` is in evaluation mode, with its averaged weights and their `statistics` where there are any,
        and every rank has the first rank's batch statistics."""
        self._communicator.share(average.buffers(network) if average else list(network.buffers()))
        network.eval()
        with average.applied() if average else torch.no_grad():
            buffers = dict(network.named_buffers())
            for name, values in self.statistics.items():
                buffers[name].copy_(values)
            yield

    def recalibrate(
        self,
        network: nn.Module,
        average: Average,
        batches: Iterable[Batch],
        count: int,
        begin_batch: Callable[[], None],
    ) -> None:
        """Measures the batch statistics of the averaged weights on the first `count` of `batches`."""

        def forward(images: Tensor) -> Tensor:
            begin_batch()
            return self.scorer.probabilities(images)

        self.statistics = {}
        with self.standing_in(network, average):
            recalibrate(network, forward, batches, count, self._communicator)
            self.statistics = {
                name: buffer.detach().clone()
                for name, buffer in network.named_buffers()
                if name.endswith((".running_mean", ".running_var"))
            }

    def evaluate(
        self, classes: int, begin_batch: Callable[[], None]
    ) -> tuple[dict[str, Any], Findings | AveragePrecision]:
        """What `evaluate` returns, and what was taken for what; `begin_batch` is called before each batch, as often on every
        rank."""
        if self.loader.dataset.combinations is not None:
            precision = AveragePrecision(self.loader.dataset, self._communicator)
            result = evaluate(self.score, self.loader, self.batch_size, self._communicator, precision, begin_batch)
            return {**result, **precision.result()}, precision
        findings = Findings(classes, self._communicator)
        return evaluate(self.score, self.loader, self.batch_size, self._communicator, findings, begin_batch), findings

    def state_dict(self) -> dict[str, Any]:
        """The statistics that were measured for the weights as they are."""
        return {"statistics": self.statistics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        device = self._communicator.device
        self.statistics = {name: values.to(device) for name, values in state["statistics"].items()}


def evaluate(
    score: Callable[..., Any],
    loader: Loader,
    batch_size: int,
    communicator: Communicator,
    findings: Collector | None = None,
    begin_batch: Callable[[], None] = lambda: None,
    restricted: bool = False,
    earlier: Earlier | None = None,
    share: float = 1.0,
) -> dict[str, Any]:
    """Runs `score` (an engine.graphs.scorer.Scorer, perhaps compiled) over the loader's split.

    Every rank must call it. Returns top1 and top5 in percent, the mean cross-entropy `loss`, the number of images
    counted, and `unreadable`, those that could not be decoded and therefore do not count. `findings` collects what was
    taken for what; with `restricted`, `score` also counts among some classes: top1_among and
    top5_among; `begin_batch` is called once for each global batch, also on a rank that the last one holds nothing for.
    `earlier`: the passes before this one, of whose averaged predictions `score` gives a `share`.
    """
    totals = torch.zeros(6 if restricted else 4, dtype=torch.float64, device=communicator.device)
    loader.set_epoch(0)
    with torch.no_grad():
        for number, batch in enumerate(loader):
            begin_batch()
            if earlier is None:
                images, labels = _padded(batch.images, batch.labels, batch_size)
                sums, guesses, confidence = score(images, labels)
            else:
                images, labels = batch.images, torch.minimum(batch.labels, earlier.labels[number])
                sums, guesses, confidence = score(images, labels, earlier.probabilities[number], share)
            totals += sums
            if findings is not None:
                findings.add(images, labels, guesses, confidence, batch.indices)
    for _ in range(loader.plan.batches - len(loader)):
        begin_batch()
    if findings is not None:
        findings.sum()
    count, top1, top5, loss, *among = communicator.sum(totals).tolist()
    expected = len(loader.dataset)
    if count == 0:
        raise ConfigError(f"none of the {expected} evaluation images could be read")
    second = {name: 100 * right / count for name, right in zip(("top1_among", "top5_among"), among)}
    return {
        "top1": 100 * top1 / count,
        "top5": 100 * top5 / count,
        "loss": loss / count,
        "count": int(count),
        "unreadable": expected - int(count),
        **second,
    }


def _padded(images: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The last batch filled up to `size` with slots that do not count: one shape, so one compiled graph."""
    missing = size - len(labels)
    if missing == 0:
        return images, labels
    return F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)), F.pad(labels, (0, missing), value=-1)
