"""Roots of other releases: how they are made, and how they are left."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import debian_root
from waiting import wait_until


@pytest.fixture
def commands(monkeypatch):
    """The commands of a root that is not made."""
    said = []
    monkeypatch.setattr(debian_root, "why_not", lambda: "")
    monkeypatch.setattr(debian_root, "_run", lambda *command: said.append(list(command)))
    return said


@pytest.mark.parametrize(("known", "script"), [(["sid", "trixie"], []), (["sid"], ["", "sid"])])
def test_a_release_younger_than_debootstrap_is_made_like_the_unstable_one(
    known, script, commands, tmp_path, monkeypatch
):
    monkeypatch.setattr(debian_root, "_SCRIPTS", tmp_path / "scripts")
    (tmp_path / "scripts").mkdir()
    for name in known:
        (tmp_path / "scripts" / name).touch()
    with debian_root.debian_root("trixie", tmp_path / "root"):
        pass
    assert commands[0] == ["debootstrap", "--variant=minbase", "trixie", str(tmp_path / "root"), *script]


def test_what_is_mounted_is_taken_away_also_after_a_failure(commands, tmp_path):
    with pytest.raises(RuntimeError, match="within"), debian_root.debian_root("trixie", tmp_path / "root"):
        raise RuntimeError("within")
    mounted = [command[-1] for command in commands if command[:2] == ["mount", "--rbind"]]
    taken = [command[-1] for command in commands if command[0] == "umount"]
    assert len(mounted) == 3
    assert sorted(taken) == sorted(mounted)
    assert not (tmp_path / "root").exists()


def test_a_root_with_a_mount_left_in_it_is_not_removed(commands, tmp_path, monkeypatch):
    """As if something were mounted in a folder whose name has a space."""
    root = tmp_path / "a root"
    read = debian_root.Path.read_text
    line = f"1 2 0:3 / {str(root / 'dev').replace(' ', chr(92) + '040')} rw - devtmpfs udev rw\n"
    listing = lambda path: line if str(path) == "/proc/self/mountinfo" else read(path)  # noqa: E731
    monkeypatch.setattr(debian_root.Path, "read_text", listing)
    with pytest.raises(RuntimeError, match="still mounted"), debian_root.debian_root("trixie", root):
        pass
    assert root.exists()


def test_what_runs_in_a_root_ends_at_its_limit(tmp_path, monkeypatch):
    """Under a stand-in for chroot that stays where it is."""
    chroot = tmp_path / "chroot"
    chroot.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    chroot.chmod(0o755)
    monkeypatch.setattr(debian_root, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    root = debian_root.DebianRoot(tmp_path)
    assert root.run("echo said; exit 3").stdout == "said\n"
    with pytest.raises(subprocess.TimeoutExpired):
        root.run(f"sleep 10000 & echo $! > '{tmp_path}/pid'; wait", timeout=5)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: gone(pid), lambda: f"{pid} goes on")


def gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
