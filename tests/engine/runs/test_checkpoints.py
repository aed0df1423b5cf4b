"""Checkpoint files: whole or not there, refused when damaged, kept when the disk is full, slow or read-only."""

from __future__ import annotations

import errno
import io
import itertools
import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import engine.runs.checkpoint_writer
from disks import mount
from engine.config.options import Config, ConfigError
from engine.faults.errors import TrainingFailed
from engine.runs.checkpoint_file import (
    CheckpointError,
    _save,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from engine.runs.checkpoint_writer import CheckpointWriter
from engine.runs.identity import Identity
from engine.runs.resuming import find_start
from engine.runs.retention import Retention
from engine.runs.run_directory import RunDirectory
from pipelines import TrainPlan
from waiting import wait_until


def state(step: int, kilobytes: int = 64) -> dict:
    return {"network": {"weight": torch.full((kilobytes * 256,), float(step))}, "step": step}


def save(folder: Path, step: int, content: dict, keep: int) -> Path:
    """Writes a checkpoint and removes all but the newest `keep`."""
    path = save_checkpoint(folder, step, content)
    for old in Retention(keep).superfluous(folder, {}):
        old.unlink()
    return path


def test_the_newest_complete_one_is_found_and_old_ones_go(tmp_path):
    assert load_newest(tmp_path / "none") is None
    for step in (9, 10, 100):
        save(tmp_path, step, state(step), keep=2)
    for left in ("step-000000200.tmp", ".best.safetensors.123.tmp"):
        (tmp_path / left).write_bytes(b"half a file")
    path, loaded, refused = load_newest(tmp_path)
    assert (path.name, loaded["step"], refused) == ("step-000000100.pt", 100, [])
    assert torch.equal(loaded["network"]["weight"], state(100)["network"]["weight"])
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000010.pt", "step-000000100.pt"]
    save(tmp_path, 300, state(300), keep=2)
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "replaced"])
def test_a_damaged_one_is_refused_and_the_one_before_it_used(damage, tmp_path):
    for step in (1, 2):
        save(tmp_path, step, state(step), keep=2)
    newest = list_checkpoints(tmp_path)[-1]
    content = newest.read_bytes()
    middle = len(content) // 2  # in the weights
    newest.write_bytes(
        {
            "cut": content[: middle + 1000],
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "emptied": b"",
            "replaced": b"a text file",
        }[damage]
    )
    path, loaded, refused = load_newest(tmp_path)
    assert (path.name, loaded["step"]) == ("step-000000001.pt", 1)
    assert len(refused) == 1
    assert str(newest) in refused[0]
    assert "\n" not in refused[0]
    if damage == "flipped":
        assert "is damaged: the checksum" in refused[0]
    list_checkpoints(tmp_path)[0].unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be read"):
        load_newest(tmp_path)


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    """Every byte of the file either is checked or does not matter."""
    path = save(tmp_path, 5, state(5, kilobytes=1), keep=1)
    content, generator = path.read_bytes(), random.Random(3)
    noticed = 0
    for place in generator.sample(range(len(content)), 150):
        path.write_bytes(
            content[:place] + bytes([content[place] ^ (1 << generator.randrange(8))]) + content[place + 1 :]
        )
        try:
            assert torch.equal(load_checkpoint(path)["network"]["weight"], state(5, kilobytes=1)["network"]["weight"])
        except CheckpointError:
            noticed += 1
    assert noticed > 75


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"format": "inception-checkpoint-1", "network": Harmful()}, tmp_path / "step-000000001.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "step-000000001.pt")
    assert not (tmp_path / "harm").exists()


def kill_while_writing(folder: Path, times: int) -> None:
    """Has a process write checkpoints without a pause and kills it at a random moment, until so many kills have left a
    half-written file."""
    states, left, step = [state(n, kilobytes=2048) for n in range(8)], 0, 0
    save(folder, 0, states[0], keep=2)
    while left < times:
        child = os.fork()
        if child == 0:
            for number in itertools.count(step + 1):
                save(folder, number, states[number % 8] | {"step": number}, keep=2)
        known = list_checkpoints(folder)
        try:
            wait_until(lambda known=known: list_checkpoints(folder) != known, lambda: "it writes nothing")
            time.sleep(random.uniform(0, 0.06))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        left += bool(list(folder.glob("*.tmp")))
        path, loaded, refused = load_newest(folder)
        assert refused == []
        assert loaded["step"] >= step
        assert path.name == f"step-{loaded['step']:09d}.pt"
        assert torch.equal(loaded["network"]["weight"], states[loaded["step"] % 8]["network"]["weight"])
        step = loaded["step"]


def test_killed_while_writing(tmp_path):
    kill_while_writing(tmp_path, 5)


@pytest.mark.soak
def test_killed_while_writing_many_times(tmp_path):
    kill_while_writing(tmp_path, 25)


# ---- in the background ----------------------------------------------------------------------------------------------


class Told(list):
    """What a CheckpointWriter reported."""

    def __call__(self, event: str, text: str) -> None:
        self.append((event, text))


@pytest.fixture
def told() -> Told:
    return Told()


def test_what_is_saved_is_the_moment_of_the_call(tmp_path, told):
    checkpointer, weights = CheckpointWriter(tmp_path, Retention(2), told), state(1)
    checkpointer.save(1, weights)
    weights["network"]["weight"].fill_(7)
    checkpointer.wait()
    checkpointer.close()
    assert torch.equal(load_newest(tmp_path)[1]["network"]["weight"], state(1)["network"]["weight"])
    assert told == []


def test_a_slow_disk_is_reported_while_training_waits_for_it(tmp_path, told, monkeypatch):
    disk = threading.Event()

    def slowly(*arguments):
        disk.wait()
        return save_checkpoint(*arguments)

    monkeypatch.setattr(engine.runs.checkpoint_writer, "save_checkpoint", slowly)
    monkeypatch.setattr(engine.runs.checkpoint_writer, "PATIENCE", 0.1)
    checkpointer = CheckpointWriter(tmp_path, Retention(2), told)
    checkpointer.save(1, state(1))
    assert list_checkpoints(tmp_path) == []  # the first waits for nobody
    threading.Timer(0.3, disk.set).start()
    checkpointer.save(2, state(2))
    checkpointer.wait()
    checkpointer.close()
    assert {event for event, _ in told} == {"slow disk"}
    assert "training waits for the disk" in told[0][1]
    assert len(list_checkpoints(tmp_path)) == 2


@pytest.fixture
def small_disk(tmp_path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A folder, a function that fills its disk, and one that makes room again. Where no disk can be mounted, files
    larger than a few kilobytes cannot be written instead."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if mount(disk, "size=1m"):
        yield disk, lambda: (disk / "filler").write_bytes(bytes(700_000)), lambda: (disk / "filler").unlink()
        subprocess.run(["umount", "-l", str(disk)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield (
        disk,
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1])),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_previous_one_and_ends_the_run_at_the_second_failure(small_disk, told):
    disk, fill, make_room = small_disk
    checkpointer = CheckpointWriter(disk, Retention(2), told)
    checkpointer.save(1, state(1, kilobytes=300))
    checkpointer.wait()
    fill()
    checkpointer.save(2, state(2, kilobytes=300))
    checkpointer.wait()
    assert [event for event, _ in told] == ["checkpoint failed"]
    assert "the one before it is kept" in told[0][1]
    assert load_newest(disk)[1]["step"] == 1
    make_room()
    checkpointer.save(3, state(3, kilobytes=300))  # a success in between: the count starts again
    checkpointer.wait()
    (disk / "step-000000001.pt").unlink()
    fill()
    checkpointer.save(4, state(4, kilobytes=300))
    checkpointer.wait()
    checkpointer.save(5, state(5, kilobytes=300))
    with pytest.raises(TrainingFailed, match=r"two checkpoints in a row could not be written .* make room") as failure:
        checkpointer.wait()
    checkpointer.close()
    assert "\n" not in str(failure.value)
    assert load_newest(disk)[1]["step"] == 3
    assert list(disk.glob("*.tmp")) == []


def test_a_write_that_breaks_off_leaves_no_debris(tmp_path, monkeypatch):
    """The disk fills up while the file is being written, after there seemed to be room."""

    def break_off(value, file):
        file.write(b"the beginning")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    save(tmp_path, 1, state(1), keep=2)
    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(RuntimeError):
        save(tmp_path, 2, state(2), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.pt"]


# ---- the run directory ----------------------------------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path) -> Iterator[Path]:
    """A folder that cannot be written, by root either."""
    folder = tmp_path / "fixed"
    folder.mkdir()
    if mount(folder, "size=1m,ro"):
        undo = ["umount", "-l", str(folder)]
    elif os.geteuid() == 0:
        subprocess.run(["chattr", "+i", str(folder)], check=True)
        undo = ["chattr", "-i", str(folder)]
    else:
        folder.chmod(0o555)
        undo = ["chmod", "755", str(folder)]
    yield folder
    subprocess.run(undo, check=True)


def test_a_read_only_run_directory_is_refused(read_only):
    with pytest.raises(ConfigError, match=r"run directory .*fixed.* cannot be (made|written).*--run\.dir"):
        RunDirectory(read_only).prepare("auto")
    with pytest.raises(ConfigError, match=r"run directory .*fixed/run cannot be made.*--run\.dir"):
        RunDirectory(read_only / "run").prepare("auto")


def test_a_directory_of_another_run_is_left_as_it_is(tmp_path):
    theirs, ours = Config(), Config()
    theirs.run.dir = ours.run.dir = str(tmp_path)
    ours.optimizer.lr = 0.25
    directory = RunDirectory(tmp_path)
    directory.prepare("auto")
    identity = Identity("train", "val", 96, 10, None)
    directory.describe(theirs, identity)
    save(directory.checkpoints, 3, state(3), keep=2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"holds a run with --optimizer\.lr 0\.1, not 0\.25"):
        find_start(ours, identity, directory, TrainPlan(96, 16))
    with pytest.raises(ConfigError, match="holds a run already"):
        directory.prepare("never")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_folder_that_cannot_be_looked_into_is_not_empty(tmp_path, monkeypatch):
    """Else the run in it would start afresh, and its metrics be written over."""
    save_checkpoint(tmp_path, 1, state(1))

    def stale(path: str) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, stale)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        list_checkpoints(tmp_path)


def test_the_disks_own_reason_is_told(tmp_path, monkeypatch):
    """torch says of a failed write only that it failed."""

    class Full(io.RawIOBase):
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        _save(state(1), Full())
