"""What processes do and hold: whether they live; of the one that runs a test threads, files, children and memory."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


def alive(pid: int) -> bool:
    """Whether this process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Held(NamedTuple):
    """Names of Python's threads, how many the kernel knows, open files by what they lead to, and children by number."""

    threads: list[str]
    tasks: int
    files: list[str]
    children: list[str]


def held() -> Held:
    """What this process holds once garbage is collected."""
    gc.collect()
    tasks = list(Path("/proc/self/task").iterdir())
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    return Held(sorted(thread.name for thread in threading.enumerate()), len(tasks), open_files(), sorted(children))


def open_files() -> list[str]:
    """What this process's file descriptors lead to."""
    # The listing itself opens a descriptor that is closed again before it is looked at.
    return sorted(str(link.readlink()) for link in list(Path("/proc/self/fd").iterdir()) if link.is_symlink())


def resident() -> float:
    """Resident memory of this process [MiB]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def growth_over_epochs(loader: Iterable[object]) -> float:
    """By how much resident memory grows over sixteen epochs after four [MiB]."""
    for _ in range(4):
        list(loader)
    gc.collect()
    before = resident()
    for _ in range(16):
        for _ in loader:
            pass
    gc.collect()
    return resident() - before


def own() -> float:
    """Resident memory that is this process's alone and no file's in the system's page cache [MiB]."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Private_Dirty")).split()[1]) / 1024
