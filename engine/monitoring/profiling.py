"""Where a step's time goes: its phases timed on one step a row, and a torch.profiler trace of a few steps on request."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.config.options import ProfileConfig
from engine.distributed.strategy import Strategy

_WARM_UP_STEPS = 2


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


class StepProfiler:
    """A torch.profiler trace of `profile.steps` steps of the first rank, for Perfetto and chrome://tracing."""

    def __init__(self, options: ProfileConfig, folder: Path, strategy: Strategy, say: Callable[[str], None]):
        self._folder, self._say = folder, say
        self._step = 0
        self._profiler: torch.profiler.profile | None = None
        if not options.steps or not strategy.is_main:
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if strategy.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(
                skip_first=options.wait, wait=0, warmup=_WARM_UP_STEPS, active=options.steps, repeat=1
            ),
            on_trace_ready=self._write,
        )
        self._profiler.start()

    def step(self, step: int) -> None:
        """Step number `step` of the run is done."""
        if self._profiler is not None:
            self._step = step
            self._profiler.step()

    def _write(self, profiler: torch.profiler.profile) -> None:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"trace_to_step_{self._step}.json.gz"
        profiler.export_chrome_trace(str(path))
        self._profiler = None
        self._say(f"profile of the steps up to {self._step} written: open {path} in https://ui.perfetto.dev")

    def close(self) -> None:
        """Ends profiling; a run shorter than the steps asked for still leaves what was recorded."""
        if self._profiler is not None:
            self._profiler.stop()
