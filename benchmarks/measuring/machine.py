"""The circumstances of a measurement: machine, versions, state of the source, and who else used the CPUs meanwhile."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from engine.runs import source
from pipelines.support.cores import usable_cores

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "ffcv",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "webdataset",
    "numpy",
)


def describe_machine() -> dict[str, Any]:
    """CPU, memory and GPUs; `id` is a short hash of them, the same for machines of the same make."""
    gpus = [
        {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        for properties in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ]
    facts = {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }
    return facts | {"id": hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}


def machine_line(machine: dict[str, Any]) -> str:
    """One line for tables and reports."""
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    return f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, {gpus}"


def describe_versions() -> dict[str, str]:
    """Python and the packages that matter to speed, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return versions


def describe_source() -> dict[str, Any]:
    """Commit of the source, in 12 digits, and what `engine.runs.source` knows beside it."""
    known = source.describe_source(ROOT)
    return known | {"commit": known["commit"][:12]} if known else {}


def command_line() -> str:
    """The command as a person types it in the repository."""
    script = Path(sys.argv[0])
    name = script.resolve().relative_to(ROOT) if script.resolve().is_relative_to(ROOT) else script.name
    ranks = os.environ.get("WORLD_SIZE")
    start = f"torchrun --nproc_per_node={ranks}" if ranks else "python"
    return " ".join([start, str(name), *(Path(a).name if a.startswith("/") else a for a in sys.argv[1:])])


class LoadMeter:
    """How busy others kept the CPUs while this was measured; Linux only, `read` says None elsewhere."""

    def __init__(self) -> None:
        self._start = (time.monotonic(), _machine_seconds(), _own_seconds())

    def read(self) -> dict[str, float | None]:
        """Share of all CPU time that others used since the meter was made (0..1), and the load average of a minute."""
        elapsed = time.monotonic() - self._start[0]
        busy, own = _machine_seconds(), _own_seconds()
        others = None
        if busy is not None and self._start[1] is not None and elapsed > 0:
            foreign = (busy - self._start[1]) - (own - self._start[2])
            others = round(min(1.0, max(0.0, foreign / (elapsed * (os.cpu_count() or 1)))), 3)
        return {"others": others, "load_average": round(os.getloadavg()[0], 2)}


def _machine_seconds() -> float | None:
    """CPU seconds that all processes used since the start of the machine (user, nice, system, interrupts, stolen)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """CPU seconds of this process, of its children that ended, and of its descendants that live."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system + _descendant_seconds(os.getpid())


def _descendant_seconds(pid: int) -> float:
    total = 0.0
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = children.read_text().split()
        except OSError:
            continue
        for child in direct:
            total += _seconds_of(child) + _descendant_seconds(int(child))
    return total


def _seconds_of(pid: str) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
