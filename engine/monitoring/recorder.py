"""The rows of a run's metrics: what was learned, how fast, and where the time went."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from engine.distributed.parallelism import Parallelism
from engine.monitoring.hardware import Hardware
from engine.monitoring.monitor import Monitor
from engine.monitoring.phase_clock import PhaseClock, phase_fractions
from pipelines import Loader, TrainPlan


class Recorder:
    """Measures between the rows of training, and writes them. One step in the middle of a row has its phases timed.

    `position` gives the beginning of a row; `steps_a_row`: steps of a full one; `global_batch`: images of a step over all
    ranks.
    """

    def __init__(
        self,
        position: Callable[[], dict[str, Any]],
        monitor: Monitor,
        hardware: Hardware,
        parallelism: Parallelism,
        clock: PhaseClock,
        steps_a_row: int,
        global_batch: int,
    ):
        self._monitor, self._hardware, self._parallelism, self._clock = monitor, hardware, parallelism, clock
        self._position, self._global_batch = position, global_batch
        self._timed_step = steps_a_row // 2

    def begin_epoch(self) -> None:
        """An epoch, or the rest of one, begins."""
        self._row_began = self._epoch_began = time.monotonic()
        self._waited, self._steps, self._epoch_steps = 0.0, 0, 0
        scale = self._parallelism.loss_scale
        self._left_out_before = scale.steps_left_out if scale is not None else 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it, the step waits for data."""
        asked = time.monotonic()
        yield
        self._waited += time.monotonic() - asked

    def begin_step(self, number: int) -> None:
        """The step begins that is `number` steps after the row's first."""
        self._steps += 1
        self._epoch_steps += 1
        if number == self._timed_step:
            self._clock.begin()
            self._parallelism.time_exchange()

    def train_row(self, means: list[list[float]], lr: float, norm: Tensor | None, agreeing: float = 0.0) -> None:
        """Writes the row of the steps since the last one; `means` holds (loss, share of right answers) of each, on which the
        ranks agreed while this one waited `agreeing` seconds."""
        now = time.monotonic()
        elapsed = max(now - self._row_began, 1e-9)
        images, waiting = self._steps * self._global_batch, self._waited / elapsed
        phases = self._clock.read()
        exchange, scale = self._parallelism.exchange_seconds() if phases else {}, self._parallelism.loss_scale
        communicator = self._parallelism.communicator
        if phases:  # else how long the exchange waited for others is not known
            own = elapsed - agreeing - communicator.waited_for_votes
            communicator.own_step_seconds = max(own / self._steps - sum(exchange.values()), 0.0)
        self._monitor.record(
            "train",
            **self._position(),
            loss=sum(loss for loss, _ in means) / len(means),
            top1=100 * sum(right for _, right in means) / len(means),
            lr=lr,
            **({} if scale is None else {"loss_scale": scale.value, "steps_left_out": scale.steps_left_out}),
            gradient_norm=float(norm) if norm is not None else None,
            images_per_second=round(images / elapsed, 1),
            images_per_second_epoch=round(self._epoch_steps * self._global_batch / (now - self._epoch_began), 1),
            seconds=round(elapsed, 4),
            data_wait_fraction=round(waiting, 4),
            **phase_fractions(phases, exchange, elapsed / self._steps, waiting),
            **stragglers(communicator.step_seconds),
            **self._hardware.row(images),
        )
        self._row_began, self._waited, self._steps, communicator.waited_for_votes = now, 0.0, 0, 0.0

    def substitutions(self, loader: Loader) -> None:
        """Tells which images `loader` could not read, on any rank, and what became of their places: training takes other
        images, evaluation counts fewer. Every rank must call it."""
        split = loader.dataset.split
        done = "were replaced" if isinstance(loader.plan, TrainPlan) else "do not count"
        gathered = self._parallelism.communicator.gather(list(loader.substitutions))
        found = [entry for entries in gathered for entry in entries]
        for name, reason in found:
            self.event("unreadable", split=split, sample=name, reason=reason)
        if found:
            name, reason = found[0]
            more = f" and {len(found) - 1} more, listed in metrics.jsonl" if len(found) > 1 else ""
            self._monitor.say(f"{len(found)} images of {split} could not be read and {done}: {name} ({reason}){more}")

    def steps_left_out(self) -> None:
        """Tells how many steps of the epoch, or of the rest of it, were left out for a gradient beyond fp16."""
        scale = self._parallelism.loss_scale
        count = 0 if scale is None else scale.steps_left_out - self._left_out_before
        if scale is not None and count:
            self.event("steps left out", count=count, loss_scale=scale.value)
            self._monitor.say(
                f"fp16: {count} of the epoch's {self._epoch_steps} steps were left out, their gradients being too large at "
                f"the loss scale of then; it is {scale.value:g} now"
            )

    def event(self, event: str, **details: Any) -> None:
        """Writes a row of something that happened beside training."""
        self._monitor.record("event", **self._position(), event=event, **details)

    def trouble(self, event: str, text: str) -> None:
        """Writes and says what went wrong without ending the run."""
        self.event(event, reason=text)
        self._monitor.say(text)


def stragglers(seconds: Sequence[float]) -> dict[str, Any]:
    """What a row says of the ranks' own seconds a step: least, median, most, and which rank has most. Nothing about one rank
    alone, or while one has not told its time."""
    if len(seconds) == 1 or min(seconds) == 0:
        return {}
    return {
        "step_seconds_min": round(min(seconds), 6),
        "step_seconds_median": round(statistics.median(seconds), 6),
        "step_seconds_max": round(max(seconds), 6),
        "slowest_rank": max(range(len(seconds)), key=seconds.__getitem__),
    }
