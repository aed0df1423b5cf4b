"""A torch.profiler trace of a few steps, on request."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.config.options import ProfileConfig
from engine.distributed.communicator import Communicator
from engine.monitoring.hooks import Hook

_WARM_UP_STEPS = 2


class Trace(Hook):
    """A torch.profiler trace of `profile.steps` steps of the first rank, for Perfetto and chrome://tracing."""

    def __init__(self, options: ProfileConfig, folder: Path, communicator: Communicator, say: Callable[[str], None]):
        self._folder, self._say = folder, say
        self._step = 0
        self._profiler: torch.profiler.profile | None = None
        if not options.steps or not communicator.is_main:
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if communicator.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(
                skip_first=options.wait, wait=0, warmup=_WARM_UP_STEPS, active=options.steps, repeat=1
            ),
            on_trace_ready=self._write,
        )
        self._profiler.start()

    def on_step(self, run: Any) -> None:
        if self._profiler is not None:
            self._step = run.progress.step
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
