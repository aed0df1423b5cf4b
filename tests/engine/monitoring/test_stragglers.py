"""The rank that keeps the others waiting stands in the rows of a run's metrics."""

from __future__ import annotations

import pytest

from engine.monitoring.recorder import stragglers
from runs import rows
from tiny import make_tiny_dataset, tiny_options

SLOW = """
import time
from engine.monitoring.hooks import Hook

class SlowRank(Hook):
    def on_step(self, run):
        if run.communicator.rank == 1:
            time.sleep(0.2)
"""


def test_least_median_and_most_and_whose():
    assert stragglers([0.1, 0.4, 0.2]) == {
        "step_seconds_min": 0.1, "step_seconds_median": 0.2, "step_seconds_max": 0.4, "slowest_rank": 1,
    }  # fmt: skip
    assert stragglers([0.1]) == stragglers([0.1, 0.0]) == {}


@pytest.mark.usefixtures("one_core")
def test_a_rank_that_keeps_the_other_waiting_is_named(torchrun, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    options = tiny_options(
        make_tiny_dataset(tmp_path / "data"), tmp_path / "run", hooks="slow:SlowRank", schedule__epochs=6
    )
    done = torchrun(["engine/train.py", *options], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    last = rows(tmp_path / "run")[-1]
    assert last["slowest_rank"] == 1
    assert last["step_seconds_max"] >= 0.2
    assert last["step_seconds_min"] < last["step_seconds_median"] < last["step_seconds_max"]
