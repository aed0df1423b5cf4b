"""Timing things side by side: subjects take turns, window by window, so that what slows the machine slows them all.

A *subject* is a callable that runs one window of work and says what it did; `repeated` makes one of a training step,
`drained` of a loader. `alternate` lets subjects take turns after a warm-up that is thrown away.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import psutil
import torch

from benchmarks.measuring.summaries import Ratio, Summary, paired_ratio, summarise


@dataclass(frozen=True)
class Window:
    """One stretch of measured work: `units` (images, bytes, ...) in `seconds`; the seconds of each step and the CPU cores
    kept busy, if taken."""

    units: float
    seconds: float
    steps: tuple[float, ...] = ()
    cores: float | None = None

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.seconds


Subject = Callable[[], Window]


class Sized(Protocol):
    """What a loader hands out: `len` is the number of images."""

    def __len__(self) -> int: ...


@dataclass
class Measurement:
    """A subject's windows after the warm-up, or the one-line reason why there are none."""

    name: str
    windows: list[Window] = field(default_factory=list)
    warmup_seconds: float = 0.0
    failure: str | None = None

    @property
    def rates(self) -> list[float]:
        """Units a second of each window."""
        return [window.rate for window in self.windows]

    @property
    def rate(self) -> Summary:
        """Summary of `rates`."""
        return summarise(self.rates)

    @property
    def step_seconds(self) -> Summary | None:
        """Summary of the seconds of single steps, where they were taken."""
        steps = [seconds for window in self.windows for seconds in window.steps]
        return summarise(steps) if steps else None

    @property
    def cores(self) -> Summary | None:
        """Summary of the CPU cores that the windows kept busy, where they were taken."""
        cores = [window.cores for window in self.windows if window.cores is not None]
        return summarise(cores) if cores else None

    def over(self, other: Measurement) -> Ratio:
        """How many times faster than `other`, measured in the same `alternate`."""
        return paired_ratio(self.rates, other.rates)


def alternate(
    subjects: Mapping[str, Subject],
    *,
    windows: int = 7,
    warmup: int = 1,
    budget_seconds: float = math.inf,
    on_window: Callable[[str, int], Any] | None = None,
    tolerant: bool = True,
) -> dict[str, Measurement]:
    """Measures all subjects, in turns.

    Every round runs one window of each, in an order that reverses from round to round. The first `warmup` rounds are thrown
    away, the last of which begins with the last subject. Loaders that start processes belong at the end: a fork makes
    this process copy every page of memory that it writes next, which would slow a step's first window. Then rounds are
    run until there are `windows` of them or `budget_seconds` are spent (at least one round is). A subject that raises is
    listed as failed with its reason, and the others go on; unless not `tolerant`, as among ranks, where the others would
    wait for the one that failed.
    `on_window(name, round)` is called before each window, for a sign of life.
    """
    measured = {name: Measurement(name) for name in subjects}
    # Each window starts with a collection, so that no subject pays for another's garbage; what is alive by now need not be
    # looked through every time.
    gc.collect()
    gc.freeze()
    try:
        _warm_up(subjects, measured, warmup, on_window, tolerant)
        deadline = time.perf_counter() + budget_seconds
        for number in range(windows):
            for name in _order(subjects, number):
                if on_window:
                    on_window(name, number)
                _run(subjects[name], measured[name], tolerant)
            if time.perf_counter() >= deadline:
                break
    finally:
        gc.unfreeze()
    return measured


def _order(subjects: Mapping[str, Subject], number: int) -> Iterable[str]:
    return subjects if number % 2 == 0 else reversed(list(subjects))


def _warm_up(
    subjects: Mapping[str, Subject],
    measured: Mapping[str, Measurement],
    rounds: int,
    on_window: Callable[[str, int], Any] | None,
    tolerant: bool,
) -> None:
    for number in range(-rounds, 0):
        for name in _order(subjects, number):
            if on_window:
                on_window(name, number)
            started = time.perf_counter()
            _run(subjects[name], measured[name], tolerant)
            measured[name].warmup_seconds += time.perf_counter() - started
    for measurement in measured.values():
        measurement.windows.clear()


def _run(subject: Subject, measurement: Measurement, tolerant: bool) -> None:
    if measurement.failure is not None:
        return
    gc.collect()
    try:
        measurement.windows.append(subject())
    except Exception as error:  # a peer may fail in any way, and the table says how
        if not tolerant:
            raise
        measurement.failure = one_line(error)
        measurement.windows.clear()


def one_line(error: BaseException) -> str:
    """The type and the first line of an error's message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def repeated(
    step: Callable[[], Any], units: float, *, seconds: float = 1.0, least: int = 3, device: torch.device | str = "cpu"
) -> Subject:
    """A subject that calls `step`, worth `units`, for about `seconds` and at least `least` times a window.

    On a CPU each call is timed. On a GPU calls are only queued; events on the device time each of them and the window
    ends when the device is done, so that the host runs ahead of it as it does in training.
    """
    device = torch.device(device)
    return lambda: (
        _window_on_gpu(step, units, seconds, least)
        if device.type == "cuda"
        else _window_on_cpu(step, units, seconds, least)
    )


def _window_on_cpu(step: Callable[[], Any], units: float, seconds: float, least: int) -> Window:
    steps: list[float] = []
    started = previous = time.perf_counter()
    while len(steps) < least or previous - started < seconds:
        step()
        now = time.perf_counter()
        steps.append(now - previous)
        previous = now
    return Window(units * len(steps), previous - started, tuple(steps))


def _window_on_gpu(step: Callable[[], Any], units: float, seconds: float, least: int) -> Window:
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True)]
    started = time.perf_counter()
    events[0].record()
    while len(events) <= least or time.perf_counter() - started < seconds:
        step()
        events.append(torch.cuda.Event(enable_timing=True))
        events[-1].record()
        if len(events) > 8:  # the host stays a few steps ahead and no more, or the window would never end on time
            events[-8].synchronize()
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - started
    steps = tuple(a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(events))
    return Window(units * len(steps), elapsed, steps)


def drained(
    passes: Callable[[], Iterable[Any]],
    *,
    discard: int = 2,
    seconds: float = math.inf,
    count: Callable[[Any], int] = len,
) -> Subject:
    """A subject that reads one fresh pass of a loader to its end, as fast as it comes.

    The first `discard` batches (start of workers, filling of queues) do not count. CPU cores are those of this process and
    its workers. A window ends with the pass, so that no worker of this loader runs while another one is measured; a pass
    longer than `seconds` is left early, and then `passes` must return something whose `close` stops its workers.
    """

    def window() -> Window:
        images, steps = 0, []
        source = passes()
        iterator = iter(source)
        try:
            for _ in range(discard):
                next(iterator)
            busy_before = processor_seconds()
            started = previous = time.perf_counter()
            for batch in iterator:
                now = time.perf_counter()
                images += count(batch)
                steps.append(now - previous)
                previous = now
                if now - started >= seconds:
                    break
            busy = processor_seconds() - busy_before
        finally:
            if hasattr(source, "close"):
                source.close()
        if not steps:
            raise ValueError(f"a pass of no more than {discard} batches is too short to be measured")
        return Window(images, previous - started, tuple(steps), busy / (previous - started))

    return window


def processor_seconds() -> float:
    """CPU time taken so far by this process and all processes that it started, those that have ended included."""
    total, mine = 0.0, psutil.Process()
    for process in [mine, *mine.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended just now: its parent has its time
            total += sum(process.cpu_times()[:4])  # user and system, of itself and of children that it waited for
    return total


def failed(name: str, reason: str) -> Measurement:
    """A subject that cannot be measured here, for the table."""
    return Measurement(name, failure=reason)


def fastest(measured: Mapping[str, Measurement], names: Sequence[str] | None = None) -> str | None:
    """The name with the highest median rate; None when all failed."""
    candidates = [name for name in names or measured if measured[name].failure is None and measured[name].windows]
    return max(candidates, key=lambda name: measured[name].rate.median, default=None)
