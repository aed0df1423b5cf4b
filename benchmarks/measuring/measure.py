"""Timing things side by side: subjects take turns, window by window, so that what slows the machine slows them all.

A *subject* is a callable that runs one window of work and says what it did; `repeated` makes one of a training step,
`drained` of a loader. `alternate` lets subjects take turns after a warm-up that is thrown away.
"""

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from benchmarks.measuring.machine import processor_seconds
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
    def step_seconds(self) -> list[float]:
        """The seconds of single steps, where they were taken."""
        return [seconds for window in self.windows for seconds in window.steps]

    @property
    def cores(self) -> list[float]:
        """The CPU cores that the windows kept busy, where they were taken."""
        return [window.cores for window in self.windows if window.cores is not None]

    def over(self, other: Self) -> Ratio:
        """How many times faster than `other`, measured in the same `alternate`."""
        return paired_ratio(self.rates, other.rates)


def alternate(
    subjects: Mapping[str, Subject], *, windows: int = 7, warmup: int = 1, budget_seconds: float = math.inf,
    on_window: Callable[[str, int], Any] = lambda name, number: None, tolerant: bool = True,
) -> dict[str, Measurement]:  # fmt: skip
    """Measures all subjects, in turns.

    Every round runs one window of each, in an order that reverses from round to round. The first `warmup` rounds are thrown
    away, the last of which begins with the last subject. Loaders that start processes belong at the end: a fork makes
    this process copy every page of memory that it writes next, which would slow a step's first window. Then rounds are
    run until there are `windows` of them or another one would exceed `budget_seconds`, which count from the call (at least
    one round is run). A subject that raises is listed as failed with its reason, and the others go on; unless not
    `tolerant`, as among ranks, where the others would wait for the one that failed.
    `on_window(name, round)` is called before each window, for a sign of life; rounds of the warm-up are negative.
    """
    measured = {name: Measurement(name) for name in subjects}
    begun = time.perf_counter()
    # Each window starts with a collection, so that no subject pays for another's garbage; what is alive by now need not be
    # looked through every time.
    gc.collect()
    gc.freeze()
    try:
        for number in range(-warmup, windows):
            started = time.perf_counter()
            for name in subjects if number % 2 == 0 else reversed(list(subjects)):
                if measured[name].failure is None:
                    on_window(name, number)
                    _run(subjects[name], measured[name], number < 0, tolerant)
            now = time.perf_counter()
            if number >= 0 and now - begun + (now - started) > budget_seconds:
                break
    finally:
        gc.unfreeze()
    return measured


def _run(subject: Subject, measurement: Measurement, warming_up: bool, tolerant: bool) -> None:
    gc.collect()
    started = time.perf_counter()
    try:
        window = subject()
    except Exception as error:  # a peer may fail in any way, and the table says how
        if not tolerant:
            raise
        measurement.failure = one_line(error)
        measurement.windows.clear()
        return
    if warming_up:
        measurement.warmup_seconds += time.perf_counter() - started
    else:
        measurement.windows.append(window)


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
    on_gpu = torch.device(device).type == "cuda"
    return lambda: (_window_on_gpu if on_gpu else _window_on_cpu)(step, units, seconds, least)


def _window_on_cpu(step: Callable[[], Any], units: float, seconds: float, least: int) -> Window:
    marks = [time.perf_counter()]
    while len(marks) <= least or marks[-1] - marks[0] < seconds:
        step()
        marks.append(time.perf_counter())
    steps = tuple(after - before for before, after in itertools.pairwise(marks))
    return Window(units * len(steps), marks[-1] - marks[0], steps)


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


def drained(passes: Callable[[], Iterable[Any]], *, ahead: int, seconds: float = math.inf) -> Subject:
    """A subject that reads one fresh pass of a loader to its end, as fast as it comes; `len` of a batch is its images.

    The clock starts when `ahead` batches have been read, as many as the loader makes before they are asked for, and at
    least two: what was made during the start of its workers is never counted. CPU cores are those of this process and its
    workers. A window ends with the pass, so that no worker of this loader runs while another one is measured; a pass
    longer than `seconds` is left early, and then `passes` must return something whose `close` stops its workers.
    Raises ValueError for a pass that is over before it has begun to count.
    """
    ahead = max(2, ahead)

    def window() -> Window:
        images, source = 0, passes()
        batches = iter(source)
        try:
            skipped = sum(1 for _ in itertools.islice(batches, ahead))
            busy, marks = processor_seconds(), [time.perf_counter()]
            for batch in batches:
                images += len(batch)
                marks.append(time.perf_counter())
                if marks[-1] - marks[0] >= seconds:
                    break
            busy = processor_seconds() - busy
        finally:
            if hasattr(source, "close"):
                source.close()
        if not images:
            raise ValueError(f"a pass of {skipped} batches is too short: its first {ahead} may be made beforehand")
        elapsed = marks[-1] - marks[0]
        steps = tuple(after - before for before, after in itertools.pairwise(marks))
        return Window(images, elapsed, steps, busy / elapsed)

    return window
