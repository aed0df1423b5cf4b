"""The fixtures that run entry points: exit status and output come back, ranks meet, and nothing outlives its test."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

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

SLEEP = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(str(os.getpid()))
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_run_command_returns_status_and_both_streams(run_command):
    done = run_command(["-m", "this_module_does_not_exist"], timeout=60)
    assert done.returncode == 1
    assert "this_module_does_not_exist" in done.stderr
    done = run_command(["bash", "-c", "echo $GREETING; pwd >&2; exit 7"], timeout=60, env={"GREETING": "hello"})
    assert (done.returncode, done.stdout) == (7, "hello\n")
    assert list(Path(done.stderr.strip()).iterdir()) == []


def test_ranks_meet_over_loopback_on_the_cpu(torchrun, tmp_path):
    script = tmp_path / "meet.py"
    script.write_text(MEET)
    done = torchrun([script], processes=2, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["total 3.0 of 2 gpu False"] * 2


def test_timeout_kills_every_rank(start_torchrun, tmp_path):
    script = tmp_path / "sleep.py"
    script.write_text(SLEEP)
    job = start_torchrun([script, tmp_path], processes=2)
    files = [tmp_path / "0", tmp_path / "1"]
    deadline = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline, job.stderr
        time.sleep(0.05)
    ranks = [int(file.read_text()) for file in files]
    assert all(alive(pid) for pid in ranks)
    with pytest.raises(pytest.fail.Exception, match="still running after"):
        job.wait(timeout=0.1)
    deadline = time.monotonic() + 10  # the kernel may take a moment to take a killed process down
    while any(alive(pid) for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in ranks if alive(pid)]


def test_launcher_variables_around_the_tests_do_not_reach_an_entry_point(run_command, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    done = run_command(["bash", "-c", "echo ${RANK-none} ${SLURM_NTASKS-none} $CUDA_VISIBLE_DEVICES"])
    assert done.stdout == "none none\n"
    assert os.environ["RANK"] == "3"
