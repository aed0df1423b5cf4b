"""The photos that all benchmarks share: written once, and one line where they cannot be."""

import pytest

from benchmarks.measuring import BenchmarkError, photos


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(photos, "usable_cores", lambda: 1)
    return tmp_path


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "train").rglob("*.jpg")}


def test_there_are_64_batches_at_least_written_once_and_shared(cache):
    said = []
    first = photos.shared_photos(2, 85, said.append)
    before = files(first)
    assert photos.shared_photos(2, 85, said.append) == first
    assert files(first) == before
    assert len(before) == 128
    assert len(said) == 1
    for others in ((4, 85), (2, 90)):
        assert photos.shared_photos(*others, said.append) != first


def test_what_was_not_written_to_its_end_is_written_again(cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(photos, "write_photos", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            photos.shared_photos(1, 85, print)
    assert len(files(photos.shared_photos(1, 85, print))) == 64


def test_many_cores_need_more_batches_since_each_worker_makes_some_ahead(cache, monkeypatch):
    monkeypatch.setattr(photos, "usable_cores", lambda: 16)
    assert len(files(photos.shared_photos(1, 85, print))) == 128  # at least 96: 32 of them are made ahead


def test_where_the_cache_cannot_be_written_one_line_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(photos, "user_cache", lambda: tmp_path / "file" / "below")
    with pytest.raises(BenchmarkError, match=r"photos cannot be written to .*: name a dataset with --data"):
        photos.shared_photos(1, 85, print)
