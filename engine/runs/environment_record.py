"""The circumstances of a run, kept beside it for a reader who wants to repeat it."""

import contextlib
import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from engine.runs.source import describe_source
from pipelines.support.cores import usable_cores


def describe_environment() -> dict[str, Any]:
    """The machine, the versions, the state of the source and the command, for a reader who wants to repeat the run."""
    packages = ["torch", "torchvision", "timm", "numpy", "pillow", "nvidia-dali-cuda120", "nvidia-dali-cuda130"]
    packages += ["ffcv", "deepspeed", "mpi4py"]
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    source = describe_source()
    return {
        "command": shlex.join(sys.argv),
        "host": platform.node(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "python": platform.python_version(),
        "packages": versions(packages),
        "git": source.get("commit"),
        "git_changed_files": source.get("changed_files"),
    }


def describe_machine() -> dict[str, Any]:
    """CPU, memory and GPUs; `id` is a short hash of them, the same for machines of the same make."""
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    facts = {
        "cpu": processor() or platform.machine(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "system": f"{platform.system()} {platform.machine()}",
    }
    return facts | {"id": hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}


def processor() -> str:
    """The processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found: dict[str, str] = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
