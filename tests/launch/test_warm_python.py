"""Programs that launchers start are forks, and behave as if they were none: arguments, output, signals, ends."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from processes import alive
from warm_python import fork_of

PROGRAM = Path(__file__).parents[1] / "support" / "told_program.py"


@pytest.fixture
def start(start_command, warm_python, tmp_path):
    """``start(*arguments, **environment) -> (Started, what it found)``: the program, once it runs."""

    def start(*arguments, **environment):
        told = tmp_path / "told.json"
        job = start_command([warm_python, PROGRAM, told, *arguments], cwd=tmp_path, env=environment)
        job.wait_until(told.exists)
        return job, json.loads(told.read_text())

    return start


def test_it_is_the_program_in_another_process(start, warm_python, tmp_path):
    job, told = start("end", "3", ANSWER="42")
    assert job.wait()[:2] == (3, "said\n")
    assert told["pid"] != job.pid
    assert (told["argv"][2:], told["cwd"], told["answer"]) == (["end", "3"], str(tmp_path), "42")
    assert told["executable"] == warm_python
    assert told["torch"], "it did not begin with torch"


def test_it_is_the_process_itself_where_a_fork_would_be_another_program(start):
    job, told = start("end", "3", PYTHONUTF8="1")
    assert job.wait().returncode == 3
    assert told["pid"] == job.pid
    assert not told["torch"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGUSR1, 75), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_reaches_the_fork_whose_end_is_told(start, number, status):
    job, told = start("wait")
    assert fork_of(job.pid) == told["pid"]
    os.kill(job.pid, number)
    assert job.wait().returncode == status


def test_the_fork_that_is_killed_kills_who_stands_for_it(start):
    job, told = start("wait")
    os.kill(told["pid"], signal.SIGKILL)
    assert job.wait().returncode == -signal.SIGKILL


def test_with_its_process_the_fork_and_what_it_started_are_killed(start):
    job, told = start("wait")
    assert told["pid"] != job.pid
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    while alive(told["pid"]) or alive(told["child"]):
        time.sleep(0.02)
