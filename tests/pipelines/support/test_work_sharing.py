"""Teams of processes and of MPI ranks: all tasks done once by whoever is idle, failures passed on, nobody left waiting."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from archives import mpirun
from pipelines import DataError
from pipelines.support.work_sharing import Processes, WorkerLost

ROOT = Path(__file__).resolve().parents[3]


def work(task: tuple[str, int]) -> tuple[int, int]:
    """Does what the task says; (its number, the process that did it)."""
    what, number = task
    if what == "slow":
        time.sleep(0.5)
    elif what == "bad":
        raise DataError(f"task {number} is bad")
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "bug":
        raise ZeroDivisionError(f"in task {number}")
    return number, os.getpid()


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_is_done_once(workers: int) -> None:
    team = Processes(workers)
    for _ in range(2):  # a team works more than once
        done = dict(team.run(work, [("quick", number) for number in range(20)]))
        assert {position: number for position, (number, _) in done.items()} == {number: number for number in range(20)}
    team.close()


def test_a_slow_task_delays_nobody_else() -> None:
    team = Processes(2)
    order = [
        number for _, (number, _) in team.run(work, [("slow", 0), *(("quick", number) for number in range(1, 12))])
    ]
    assert sorted(order) == list(range(12))
    assert order[-1] == 0
    team.close()


def test_what_a_task_raises_is_raised() -> None:
    team = Processes(2)
    with pytest.raises(DataError, match="task 3 is bad"):
        list(team.run(work, [("bad" if number == 3 else "quick", number) for number in range(6)]))
    team.close()


def test_a_killed_worker_is_a_failure_and_no_hang() -> None:
    team = Processes(2)
    with pytest.raises(WorkerLost, match="a worker process was killed"):
        list(team.run(work, [("die", 0), ("quick", 1)]))
    team.close()


SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests/support", {tests!r}]
from pipelines.support.entry_point import run_entry_point
from test_work_sharing import work

def main(arguments, ranks):
    done = sorted(ranks.run(work, [(arguments[0] if number == 5 else "quick", number) for number in range(12)]))
    assert [number for _, (number, _) in done] == list(range(12))
    print("processes", len({{process for _, (_, process) in done}}))
    return 0

run_entry_point(main)
"""


@pytest.mark.parametrize(
    ("what", "status", "says"),
    [
        ("slow", 0, ""),
        ("bad", 2, "error: task 5 is bad"),
        ("bug", 1, "ZeroDivisionError: in task 5"),
        ("die", None, ""),
    ],
)
def test_mpi_ranks_share_tasks_and_end_together(
    tmp_path: Path, run_command, what: str, status: int | None, says: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), tests=str(Path(__file__).parent)))
    done = run_command([*mpirun(3, tmp_path), script, what])
    assert says in done.stderr
    if what == "slow":
        assert done.stdout == "processes 3\n", done.stderr
    if status is None:
        assert done.returncode != 0
    else:
        assert done.returncode == status, done.stderr


def test_srun_without_mpi_is_told_so(run_command) -> None:
    done = run_command(["pipelines/prepare.py", "--help"], env={"SLURM_STEP_NUM_TASKS": "4"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "add --mpi=pmix" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_mpi4py_the_extra_is_named(run_command, tmp_path: Path) -> None:
    (tmp_path / "mpi4py.py").write_text("raise ImportError('libmpi.so is not here')")
    env = {"PMIX_RANK": "0", "PYTHONPATH": str(tmp_path)}
    done = run_command(["pipelines/prepare.py", "--help"], env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "libmpi.so is not here" in done.stderr
    assert "[mpi]" in done.stderr
