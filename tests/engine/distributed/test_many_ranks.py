"""Ranks as light processes: all meet, hear the one that is asked to stop, and end with its status."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize(("ranks", "step"), [(16, 0.01), pytest.param(256, 0.1, marks=pytest.mark.soak)])
def test_many_ranks_meet_and_stop_together(run_command, ranks, step):
    told = ["tests/engine/distributed/many_ranks_driver.py", str(ranks), str(step)]
    done = run_command(told, env={"GLOO_SOCKET_IFNAME": "lo"})
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # the soak's figures, with -rP
    assert set(json.loads(done.stdout)) == {"meeting", "stopping"}
