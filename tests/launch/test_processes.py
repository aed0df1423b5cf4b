"""The fixtures that run entry points: exit status and output come back, ranks meet, and nothing outlives its test."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from processes import alive
from waiting import wait_until

MEET = """
import sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
line = f"total {total.item()} of {dist.get_world_size()} gpu {torch.cuda.is_available()}\\n"
sys.stdout.write(line)  # at once: both ranks write into one pipe, and print sends a text and its line end apart
sys.stdout.flush()
dist.destroy_process_group()
"""

WHAT_I_AM = """
import json, os, sys
file = lambda number: os.readlink(f"/proc/self/fd/{number}")
seen = {
    "imported": "torch._dynamo" in sys.modules, "threads of the parent": len(os.listdir(f"/proc/{os.getppid()}/task")),
    "name": __name__, "file": __file__, "arguments": sys.argv, "path": sys.path[:2],
    "pid": os.getpid(), "leads": os.getsid(0) == os.getpid(), "cwd": os.getcwd(), "cores": sorted(os.sched_getaffinity(0)),
    "input": file(0), "environment": {key: value for key, value in os.environ.items() if key != "LC_CTYPE"},
}
print(json.dumps(seen))
print("words", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""

# Rank 0 tells the test's process, once both ranks are there, that its limit is over.
SLEEP = """
import os, pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
place.joinpath(os.environ["RANK"]).write_text(str(os.getpid()))
while not all((place / rank).exists() and (place / rank).read_text() for rank in "01"):
    time.sleep(0.01)
if os.environ["RANK"] == "0":
    os.kill(int(sys.argv[2]), signal.SIGUSR1)
time.sleep(100_000)
"""


def test_run_command_returns_status_and_both_streams(run_command):
    done = run_command(["-m", "this_module_does_not_exist"])
    assert done.returncode == 1
    assert "this_module_does_not_exist" in done.stderr
    done = run_command(["bash", "-c", "echo $GREETING; pwd >&2; exit 7"], env={"GREETING": "hello"})
    assert (done.returncode, done.stdout) == (7, "hello\n")
    assert list(Path(done.stderr.strip()).iterdir()) == []


def test_a_forked_program_is_as_one_of_its_own(start_command, one_core, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WHAT_I_AM)
    jobs, seen = [], []
    for variable in ("SOME", "TORCH_SOME"):  # which torch might read as it is loaded
        jobs.append(start_command([script, "7", "--a"], env={variable: "thing"}))
        done = jobs[-1].wait()
        assert (done.returncode, done.stderr) == (7, "words\n")
        seen.append(json.loads(done.stdout))
    assert [found.pop("imported") for found in seen] == [True, False]
    threads, _ = [found.pop("threads of the parent") for found in seen]
    assert threads == 1  # others would be missing in what is forked
    assert [found.pop("pid") for found in seen] == [job.pid for job in jobs]
    assert [found.pop("cwd") != str(Path.cwd()) for found in seen] == [True, True]
    for found, variable in zip(seen, ("SOME", "TORCH_SOME")):
        assert found["environment"].pop(variable) == "thing"
    assert seen[0] == seen[1]
    assert seen[0]["leads"]
    job = start_command(["-m", "http.server", "0"])
    assert job.kill().returncode == -signal.SIGKILL


@pytest.mark.parametrize("start", ["torchrun", "run_on_ranks"])
def test_ranks_meet_over_loopback_on_the_cpu(start, request, tmp_path):
    script = tmp_path / "meet.py"
    script.write_text(MEET)
    done = request.getfixturevalue(start)([script], processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["total 3.0 of 2 gpu False"] * 2


def test_a_test_at_its_limit_kills_every_rank_and_shows_their_words(start_torchrun, tmp_path):
    script = tmp_path / "sleep.py"
    script.write_text(SLEEP)
    # As pytest-timeout ends a test, by a signal, but at a moment that the ranks choose.
    before = signal.signal(signal.SIGUSR1, lambda *_: pytest.fail("at its limit"))
    try:
        with pytest.raises(pytest.fail.Exception, match=r"at its limit\nstill running: .*sleep\.py"):
            start_torchrun([script, tmp_path, str(os.getpid())], processes=2).wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    ranks = [int((tmp_path / rank).read_text()) for rank in "01"]
    wait_until(lambda: not any(alive(pid) for pid in ranks), lambda: f"of {ranks} some are alive")


def test_launcher_variables_around_the_tests_do_not_reach_an_entry_point(run_command, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    done = run_command(["bash", "-c", "echo ${RANK-none} ${SLURM_NTASKS-none} $CUDA_VISIBLE_DEVICES"])
    assert done.stdout == "none none\n"
    assert os.environ["RANK"] == "3"
