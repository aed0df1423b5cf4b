"""Ranks that fail together: which of them speaks, and with which status all end."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.environment import derived_port

ROOT = Path(__file__).parents[3]
# A rank that fails, on a machine so busy that the named one goes on a while after each answer of the store; as under mpirun or
# DeepSpeed's launcher, whose first rank keeps the store and takes it along when it ends.
FAILING = """
import os, sys, time
from engine.faults import exit_status

class Store(exit_status.PrefixStore):
    pass

def slow(name):
    def call(self, *arguments):
        answer = getattr(exit_status.Store, name)(self, *arguments)
        time.sleep(0.5)
        return answer
    return call

if os.environ["RANK"] == sys.argv[1]:
    for name in ("add", "get", "set", "compare_set"):
        setattr(Store, name, slow(name))
exit_status.PrefixStore = Store
rank = int(os.environ["RANK"])
os._exit(exit_status.fail(1 + rank, f"error: of rank {rank}"))
"""


@pytest.mark.parametrize("slow", ["0", "1"])
def test_one_rank_speaks_however_late_the_others_hear_of_it(start_command, tmp_path, slow):
    (tmp_path / "failing.py").write_text(FAILING)
    port = derived_port(str(tmp_path))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        start_command(
            [tmp_path / "failing.py", slow],
            env=place | {"PYTHONPATH": str(ROOT), "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    ends = [rank.wait() for rank in ranks]
    said = "".join(end.stderr for end in ends)
    (spoke,) = [rank for rank in (0, 1) if said == f"error: of rank {rank}\n"]
    assert [end.returncode for end in ends] == [1 + spoke] * 2
