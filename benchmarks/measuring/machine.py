"""The circumstances of a measurement: machine, versions, state of the source, and who else used the CPUs meanwhile."""

import contextlib
import os
import platform
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.runs.environment_record import describe_machine as describe_machine  # as results of benchmarks hold it
from engine.runs.environment_record import versions
from engine.runs.source import describe_source as known_source

ROOT = Path(__file__).resolve().parents[2]
# In the clone; of an installed package, where the command was given.
RESULTS = (ROOT if (ROOT / "setup.py").exists() else Path()) / "benchmarks" / "results"
_DALI = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")
_PACKAGES = ("torch", "torchvision", "timm", "ffcv", *_DALI, "webdataset", "numpy")


def machine_line(machine: dict[str, Any]) -> str:
    """One line for tables and reports."""
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    return f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, {gpus}"


def describe_versions() -> dict[str, str]:
    """Python and the packages that matter to speed, as far as they are installed."""
    found = {"python": platform.python_version()} | versions(_PACKAGES)
    on_gpu = torch.cuda.is_available()
    return found | ({"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())} if on_gpu else {})


def describe_source() -> dict[str, Any]:
    """Commit of the source, in 12 digits, and what else engine.runs knows of it."""
    known = known_source(ROOT)
    return known | {"commit": known["commit"][:12]} if known else {}


def command_line() -> str:
    """The command as a person types it in the repository, quoted for a shell, with the last name alone of an absolute path."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    ranks = os.environ.get("WORLD_SIZE")
    start = f"torchrun --nproc_per_node={ranks}" if ranks else "python"
    words = (
        re.sub(r"^(-[^/=]*=)?(/.*)", lambda path: (path[1] or "") + Path(path[2]).name, word) for word in sys.argv[1:]
    )
    return f"{start} {shlex.join([str(name), *words])}"


class LoadMeter:
    """How busy others kept the CPUs since the meter was made."""

    def __init__(self) -> None:
        self._start = self._seconds()

    def read(self) -> dict[str, float]:
        """Share of all CPU time that others used (0..1), and the load average of a minute."""
        elapsed, busy, own = (now - then for now, then in zip(self._seconds(), self._start))
        others = (busy - own) / max(elapsed * psutil.cpu_count(), 1e-9)
        return {"others": round(min(1.0, max(0.0, others)), 3), "load_average": round(os.getloadavg()[0], 2)}

    def _seconds(self) -> tuple[float, float, float]:
        """The time, and the CPU seconds that all processes, and this one with those it started, used so far."""
        spent = psutil.cpu_times()
        # The first eight are disjoint; guests' time, which may follow, is part of them.
        busy = sum(spent[:8]) - spent.idle - getattr(spent, "iowait", 0.0)
        return time.monotonic(), busy, processor_seconds()


def processor_seconds() -> float:
    """CPU time taken so far by this process and all processes that it started, those that have ended included."""
    total, mine = 0.0, psutil.Process()
    for process in [mine, *mine.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended just now: its parent has its time
            total += sum(process.cpu_times()[:4])  # user and system, of itself and of children that it waited for
    return total
