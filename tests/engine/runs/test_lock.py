"""The lock of a run's directory: one run at a time, a dead one's taken over, whichever machine it was on."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
from pathlib import Path

import pytest

import engine.runs.lock
from engine import ConfigError, Hook, Trainer, assemble, load_config
from engine.faults.errors import TrainingFailed
from engine.runs.lock import RunLock
from runs import rows
from waiting import wait_until


def silent(text: str) -> None:
    raise AssertionError(text)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(engine.runs.lock, "BEAT_SECONDS", 0.05)


def left_by(folder: Path, **changes) -> None:
    """A lock as another process has left it."""
    mine = RunLock(folder)
    mine.acquire(silent)
    holder, beat = (folder / "lock").read_text().split("\n", 1)
    mine.close()
    (folder / "lock").write_text(json.dumps({**json.loads(holder), "token": "other", **changes}) + "\n" + beat)


def test_a_directory_in_use_is_refused_by_host_and_process(tiny_run, tmp_path):
    (tmp_path / "run").mkdir()
    lock = RunLock(tmp_path / "run")
    lock.acquire(silent)
    try:
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on {platform.node()}.*--run.dir"):
            assemble(load_config(tiny_run()[1:]))
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints", "lock"]
    finally:
        lock.close()
    assert Trainer(assemble(load_config(tiny_run(schedule__epochs=1)[1:]))).fit().step == 6
    assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize("reused", [False, True])
def test_a_dead_process_of_this_machine_blocks_nobody(reused, tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    left_by(tmp_path, process=os.getpid() if reused else gone.pid, started="1")
    told: list[str] = []
    lock = RunLock(tmp_path)
    lock.acquire(told.append)
    lock.close()
    assert len(told) == 1
    assert "took over" in told[0]


def test_a_run_elsewhere_is_watched_for_its_heartbeat(quick, tmp_path):
    left_by(tmp_path, machine="another", host="node7")
    content = (tmp_path / "lock").read_text()

    def beats(text: str) -> None:
        assert "process" in text
        assert "on node7" in text
        (tmp_path / "lock").write_text(content.replace("000000", "000001", 1))

    with pytest.raises(ConfigError, match=r"in use by process .* on node7"):
        RunLock(tmp_path).acquire(beats)
    told: list[str] = []
    lock = RunLock(tmp_path)
    lock.acquire(told.append)
    assert [text.split()[0] for text in told][-1] == "took"
    lock.close()


def test_a_run_that_was_taken_for_dead_knows_it_whatever_became_of_its_file(quick, tmp_path, monkeypatch):
    """As on NFS, where a file that another machine removed is stale, and its number may be the next file's."""
    lock = RunLock(tmp_path)
    lock.acquire(silent)
    number = (tmp_path / "lock").stat().st_ino

    def stale(*arguments) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(engine.runs.lock, "_write_beat", stale)
    (tmp_path / "lock").write_text('{"token": "another"}\n000000000001\n')
    assert (tmp_path / "lock").stat().st_ino == number
    wait_until(lambda: lock.lost, lambda: "it never looks")
    with pytest.raises(TrainingFailed, match="another run took over"):
        lock.require_held()
    lock.close()
    assert (tmp_path / "lock").exists()


class Taken(Hook):
    """Another run takes the directory over after the second step."""

    def on_step(self, run) -> None:
        run.lock.lost = run.progress.step > 2


def test_a_run_that_lost_its_directory_writes_nothing_more(tiny_run, tmp_path):
    with pytest.raises(TrainingFailed, match=r"another run took over .* nothing more was written"):
        Trainer(assemble(load_config(tiny_run()[1:]), hooks=[Taken()])).fit()
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2]
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_run_that_was_taken_for_dead_knows_it(quick, tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire(silent)
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").write_text("another's")
    wait_until(lambda: lock.lost, lambda: "it never looks")
    lock.close()
    assert (tmp_path / "lock").read_text() == "another's"
