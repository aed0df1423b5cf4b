"""Roots of other releases: how they are made, and how they are left."""

from __future__ import annotations

import pytest

from benchmarks.measuring import debian_root
from benchmarks.measuring.command_line import BenchmarkError


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
    with pytest.raises(BenchmarkError, match="still mounted"), debian_root.debian_root("trixie", root):
        pass
    assert root.exists()
