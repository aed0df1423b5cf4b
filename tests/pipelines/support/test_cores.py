"""The cores that a process may use: bound ones, and quotas of control groups, as a container or a batch system sets them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.support.cores import usable_cores

V2 = "30 24 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "33 31 0:30 {root} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "34 31 0:31 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)
MEMBER_V1 = "4:cpuset:{path}\n3:cpu,cpuacct:{path}\n0::{path}\n"


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))


def machine(root: Path, mounts: str, membership: str, files: dict[str, str]) -> Path:
    """A root directory with the files that a process of a control group sees."""
    files = {"proc/self/mountinfo": mounts, "proc/self/cgroup": membership, **files}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 16),
        ("400000 100000", 4),
        ("150000 100000", 2),
        ("20000 100000", 1),
        ("9900000 100000", 16),
        ("", 16),
    ],
)
def test_a_quota_of_the_second_version(tmp_path, limit, cores):
    files = {"sys/fs/cgroup/cpu.max": limit}
    assert usable_cores(machine(tmp_path, V2.format(root="/"), "0::/\n", files)) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 16), ("300000", 3), ("50000", 1)])
def test_a_quota_of_the_first_version(tmp_path, quota, cores):
    folder = "sys/fs/cgroup/cpu,cpuacct/job_7/step_0/"
    files = {f"{folder}cpu.cfs_quota_us": f"{quota}\n", f"{folder}cpu.cfs_period_us": "100000\n"}
    member = MEMBER_V1.format(path="/job_7/step_0")
    assert usable_cores(machine(tmp_path, V1.format(root="/"), member, files)) == cores


def test_the_tightest_group_on_the_way_up_decides(tmp_path):
    limits = {
        "": "1200000 100000",
        "slurm/": "300000 100000",
        "slurm/job/": "max 100000",
        "slurm/job/step/": "800000 100000",
    }
    files = {f"sys/fs/cgroup/{group}cpu.max": limit for group, limit in limits.items()}
    assert usable_cores(machine(tmp_path, V2.format(root="/"), "0::/slurm/job/step\n", files)) == 3


@pytest.mark.parametrize(
    ("mounts", "member", "files"),
    [
        (V2, "0::{path}\n", {"sys/fs/cgroup/cpu.max": "200000 100000"}),
        (V1, MEMBER_V1, {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        }),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/docker/3f1c", "/"], ids=["as outside", "own name space"])
def test_a_container_sees_its_own_group_as_the_root(tmp_path, mounts, member, files, path):
    """Without a name space of its own, the group has the name that it has outside; so has the mount."""
    assert usable_cores(machine(tmp_path, mounts.format(root=path), member.format(path=path), files)) == 2
    assert usable_cores(machine(tmp_path, mounts.format(root="/elsewhere"), member.format(path=path), files)) == 2


def test_without_control_groups_the_bound_cores_count(tmp_path):
    assert usable_cores(tmp_path) == 16
    assert 1 <= usable_cores() <= 16
