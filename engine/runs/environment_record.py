"""The circumstances of a run, kept beside it for a reader who wants to repeat it."""

import contextlib
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
