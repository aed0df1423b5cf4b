"""Every operation on a file may fail: a run ends as if it had not, or says in one line what failed and goes on when it is
started again. benchmarks/studies/file_faults.py makes the figure of docs/faults.md so."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.studies.faulty_runs import RESTARTED, UNHARMED
from benchmarks.studies.file_faults import trials

SOME, MANY = 40, 520


def test_runs_in_which_a_file_fails_end_alike_or_say_so(tmp_path):
    check(tmp_path, SOME)


@pytest.mark.soak
def test_many_runs_in_which_a_file_fails_end_alike_or_say_so(tmp_path):
    check(tmp_path, MANY)


def check(folder: Path, count: int) -> None:
    found = list(trials(folder, count))
    assert len(found) == count
    # A run may make a few operations fewer than the one that was counted: its threads take turns as they like.
    assert sum(bool(trial["failed"]) for trial in found) > 0.7 * count
    wrong = [trial for trial in found if trial["outcome"] not in (UNHARMED, RESTARTED)]
    assert not wrong, "\n".join(map(str, wrong))
    assert {trial["outcome"] for trial in found} == {UNHARMED, RESTARTED}
