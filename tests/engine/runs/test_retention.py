"""Which checkpoints stay: the newest, the best, some for good."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.runs.checkpoint_file import checkpoint_path, checkpoint_step, list_checkpoints
from engine.runs.checkpoint_writer import CheckpointWriter
from engine.runs.retention import Retention

SCORES = {2: 40.0, 4: 70.0, 6: 55.0, 8: 70.0, 10: 60.0}


def left(folder: Path, retention: Retention, scores: dict[int, float]) -> list[int]:
    """The steps that stay when checkpoints of steps 1 to 12 were written one after the other."""
    for step in range(1, 13):
        path = checkpoint_path(folder, step)
        path.touch()
        os.utime(path, ns=(step, step))
        for old in retention.superfluous(folder, {known: score for known, score in scores.items() if known < step}):
            old.unlink()
    return [checkpoint_step(path) for path in list_checkpoints(folder)]


@pytest.mark.parametrize(
    ("retention", "steps"),
    [
        (Retention(1), [12]),
        (Retention(3), [10, 11, 12]),
        (Retention(1, best=1), [8, 12]),  # of two equal ones the later
        (Retention(1, best=3), [4, 8, 10, 12]),
        (Retention(2, best=100), [2, 4, 6, 8, 10, 11, 12]),
        (Retention(1, for_good=5), [5, 10, 12]),
        (Retention(2, best=1, for_good=3), [3, 6, 8, 9, 11, 12]),
        (Retention(20), list(range(1, 13))),
    ],
)
def test_what_any_of_the_three_wants_stays(retention, steps, tmp_path):
    assert left(tmp_path, retention, SCORES) == steps


def test_what_is_written_last_is_kept_whatever_its_number(tmp_path):
    writer = CheckpointWriter(tmp_path, Retention(2), pytest.fail)
    for step in (90, 100, 7, 8):
        path = writer.save(step, {"step": step})
        writer.wait()
        assert path.exists()
    writer.close()
    assert [checkpoint_step(path) for path in list_checkpoints(tmp_path)] == [7, 8]


def test_a_checkpoint_that_cannot_be_removed_is_named_and_no_failure(tmp_path, monkeypatch):
    told = []
    writer = CheckpointWriter(tmp_path, Retention(1), lambda event, text: told.append((event, text)))
    writer.save(1, {"step": 1})
    writer.wait()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda path, missing_ok=False: exec("raise PermissionError(13, 'denied')"))
        for step in (2, 3):
            writer.save(step, {"step": step})
            assert writer.wait()
    writer.close()
    assert {event for event, _ in told} == {"checkpoint not removed"}
    assert told[0][1] == f"the old checkpoint {checkpoint_path(tmp_path, 1)} could not be removed (denied)"
    assert writer.saved_step == 3
