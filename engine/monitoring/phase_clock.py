"""Where a step's time goes: its phases, timed on one step a row."""

import time
from typing import Any

import torch


class PhaseClock:
    """Times the phases of one step: begin(), then phase(name) as each begins, stop() where none runs, then read().

    On a GPU, events on its stream take the times, so that the step does not wait for the device. Without begin(),
    phase() and stop() do nothing.
    """

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._active = False
        self._marks: list[tuple[str, Any]] = []

    def begin(self) -> None:
        """Times the step that starts now."""
        self._active = True
        self._marks.clear()

    def phase(self, name: str) -> None:
        """The phase called `name` begins, and the one before it ends."""
        if self._active:
            self._marks.append((name, self._now()))

    def stop(self) -> None:
        """The phase before ends, and none begins."""
        self.phase("")

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def read(self) -> dict[str, float]:
        """Seconds in each phase of the step timed last, which must be over, on the device too; empty if there is none."""
        seconds: dict[str, float] = {}
        for (name, start), (_, end) in zip(self._marks, self._marks[1:]):
            if name:
                spent = start.elapsed_time(end) / 1000 if self._on_gpu else end - start
                seconds[name] = seconds.get(name, 0.0) + spent
        self._active = False
        self._marks.clear()
        return seconds


def phase_fractions(
    phases: dict[str, float], exchange: dict[str, float], step: float, waiting: float
) -> dict[str, float]:
    """Shares of the time by phase, as the keys of a row: forward_fraction, backward_fraction, ...

    phases: seconds of one timed step. exchange: seconds of them, by phase, that it waited for the other ranks,
    taken out as communication_fraction. step: mean seconds of a step of the row, `waiting` of them (a fraction)
    waiting for data. Together with the latter the shares make at most 1: a timed step slower than the mean is scaled down.
    """
    if not phases:
        return {}
    phases = dict(phases)
    for name, seconds in exchange.items():
        seconds = min(seconds, phases[name])
        phases[name] -= seconds
        phases["communication"] = phases.get("communication", 0.0) + seconds
    total = max(step, sum(phases.values()) / max(1 - waiting, 1e-9))
    return {f"{name}_fraction": round(seconds / total, 4) for name, seconds in phases.items()}
