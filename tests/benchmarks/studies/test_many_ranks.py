"""Ranks as light processes: all meet, hear the one that is asked to stop, and end with its status."""

from __future__ import annotations

import json


def test_sixteen_ranks_meet_and_stop_together(run_command, tmp_path):
    out = tmp_path / "out.json"
    told = ["--ranks=16", "--step=0.01", f"--worker={out}"]
    done = run_command(["benchmarks/studies/many_ranks.py", *told], env={"GLOO_SOCKET_IFNAME": "lo"})
    assert done.returncode == 0, done.stderr
    assert set(json.loads(out.read_text())) == {"meeting", "stopping"}
