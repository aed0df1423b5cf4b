"""Copying a dataset to a node's disk: whole, resumable, once, and refused in one line."""

from __future__ import annotations

import threading

import pytest

from launch.stage import StageError, main, stage


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    for index in range(20):
        path = folder / f"train-{index % 3}" / f"{index}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([index]) * (1000 + index))
    return folder


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".staging"}


def test_everything_is_copied_once(source, tmp_path):
    target = tmp_path / "nvme" / "data"
    assert stage(source, target) == (20, sum(1000 + i for i in range(20)))
    assert contents(target) == contents(source)
    assert stage(source, target) == (0, 0)


def test_an_interrupted_copy_goes_on(source, tmp_path):
    target = tmp_path / "nvme"
    stage(source, target)
    (target / "train-0" / "0.tar").unlink()
    (target / "train-0" / ".3.tar.part").write_bytes(b"half")  # what a killed copy leaves
    (target / "train-1" / "1.tar").write_bytes(b"cut")
    assert stage(source, target)[0] == 2
    assert {key: value for key, value in contents(target).items() if key.suffix == ".tar"} == contents(source)


def test_jobs_that_share_a_node_do_not_copy_twice(source, tmp_path):
    copied = []
    threads = [threading.Thread(target=lambda: copied.append(stage(source, tmp_path / "nvme")[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(copied) == [0, 0, 20]


def test_what_is_gone_at_the_source_goes_and_indexes_stay(source, tmp_path):
    target = tmp_path / "nvme"
    stage(source, target)
    (target / ".index").mkdir()
    (target / ".index" / "train.npz").write_bytes(b"the engine's")
    for path in (source / "train-0").iterdir():
        path.unlink()
    (source / "train-0").rmdir()
    (source / "train-3").mkdir()
    (source / "train-3" / "new.tar").write_bytes(b"new")
    assert stage(source, target)[0] == 1
    assert {key: value for key, value in contents(target).items() if key.suffix == ".tar"} == contents(source)
    assert not (target / "train-0").exists()
    assert (target / ".index" / "train.npz").exists()


def test_two_datasets_never_lie_in_one_folder(source, tmp_path):
    target, other = tmp_path / "nvme", tmp_path / "other"
    stage(source, target)
    (other / "train-9").mkdir(parents=True)
    (other / "train-9" / "9.tar").write_bytes(b"9")
    with pytest.raises(StageError, match=r"holds .*source, not .*other: name another folder"):
        stage(other, target)
    assert {key: value for key, value in contents(target).items() if key.suffix == ".tar"} == contents(source)


def test_files_of_somebody_else_are_left_alone_and_named(source, tmp_path):
    target = tmp_path / "nvme"
    (target / "train-0").mkdir(parents=True)
    (target / "train-0" / "mine.tar").write_bytes(b"mine")
    with pytest.raises(StageError, match=r"1 files .* such as train-0/mine.tar"):
        stage(source, target)
    assert (target / "train-0" / "mine.tar").read_bytes() == b"mine"


def test_no_room_is_said_before_anything_is_copied(source, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(StageError, match="has room for 100 bytes"):
        stage(source, tmp_path / "nvme")
    assert contents(tmp_path / "nvme") == {}


def test_a_source_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "nvme")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["", str(tmp_path / "nvme")]) == 2  # not the working directory
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "file").write_text("")
    (tmp_path / "source").mkdir()
    assert main([str(tmp_path / "source"), str(tmp_path / "file" / "below")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
