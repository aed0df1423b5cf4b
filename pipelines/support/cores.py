"""How many CPU cores this process may use: what it is bound to, or less where a control group rations its time.

Containers and SLURM's task/cgroup give a share of a machine by a quota, `cpu.max` of cgroup v2 or `cpu.cfs_quota_us` of v1,
and leave all of its cores in sight; as many threads as cores then stand still for most of every period.
"""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_ESCAPED_SPACE = r"\040"  # as mountinfo writes it


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may run on at the same time, at least 1; a part of a core counts as one.

    `root` is where `proc` and the mounted control groups are looked for.
    """
    return min(len(os.sched_getaffinity(0)), granted_cores(root) or sys.maxsize)


def granted_cores(root: Path = Path("/")) -> int | None:
    """The cores' worth of time, at least 1, that control groups grant their processes together; None where unlimited."""
    return min((max(1, math.ceil(quota)) for quota in _quotas(root)), default=None)


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that the process's control groups grant, each group above them too; nothing where unlimited."""
    for folder, top in _groups(root):
        for group in (folder, *folder.parents):
            yield from _quota(group)
            if group == top:
                break


def _groups(root: Path) -> Iterator[tuple[Path, Path]]:
    """(folder of the process's group, where its hierarchy is mounted), for each hierarchy that may ration CPU time."""
    memberships = [line.split(":", 2) for line in _read(root / "proc/self/cgroup").splitlines()]
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        beginning, mounted = (field.replace(_ESCAPED_SPACE, " ") for field in mount.split()[3:5])
        file_system, options = kind.split()[0], kind.split()[-1].split(",")
        if file_system != "cgroup2" and not (file_system == "cgroup" and "cpu" in options):
            continue
        wanted = "" if file_system == "cgroup2" else "cpu"
        for _, controllers, path in memberships:
            if wanted in controllers.split(","):
                # A container may see its own group only, mounted as the root, under the name it has outside.
                inside = Path(path).relative_to(beginning) if Path(path).is_relative_to(beginning) else ""
                top = root / mounted.lstrip("/")
                yield top / inside, top


def _quota(group: Path) -> Iterator[float]:
    quota, period = [*_read(group / "cpu.max").split(), "", ""][:2]
    if not quota:
        quota, period = _read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip()
    if quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0:  # "max" and -1: no limit
        yield int(quota) / int(period)


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
