""".ci/run on a made-up checkout: what failed is tried once more, what fails twice fails the run, and all is listed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import pathlib, pytest
HERE = pathlib.Path(__file__).parent

def second_time(name):
    was_here = (HERE / name).exists()
    (HERE / name).touch()
    return was_here

@pytest.mark.downloads
@pytest.mark.parametrize("mirror", ["one, two", "three"])
def test_installs(mirror):
    assert second_time(mirror)

def test_works():
    pass
"""
BROKEN = """
@pytest.mark.downloads
def test_broken():
    assert False
"""
WAVERING = """
def test_wavers():
    assert second_time("wavers")
"""


@pytest.fixture
def checkout(tmp_path):
    """``checkout(tests)``: a folder with .ci/run as it is and a test.sh that runs these tests."""

    def make(tests: str) -> Path:
        for folder in (".ci", "launch"):
            (tmp_path / folder).mkdir()
        shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
        shutil.copy(ROOT / "launch" / "common.sh", tmp_path / "launch")
        (tmp_path / "launch" / "test.sh").write_text(f'cd "{tmp_path}"; exec "{sys.executable}" -m pytest -q "$@"\n')
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    downloads: as in the project\n")
        (tmp_path / "test_it.py").write_text(tests)
        return tmp_path

    return make


def red(output: str) -> list[str]:
    return [line[5:-4] for line in output.splitlines() if line.startswith("\033[31m")]


def test_a_mirror_that_fails_once_has_a_second_try_and_is_listed(checkout, run_command):
    done = run_command(["bash", checkout(TESTS) / ".ci" / "run"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert red(done.stdout) == [
        "test_it.py::test_installs[one, two]: failed, then passed",
        "test_it.py::test_installs[three]: failed, then passed",
    ]


def test_what_fails_twice_fails_the_run(checkout, run_command):
    done = run_command(["bash", checkout(TESTS + BROKEN) / ".ci" / "run"])
    assert done.returncode == 1
    assert "test_it.py::test_broken: failed" in red(done.stdout)
    assert "test_it.py::test_installs[three]: failed, then passed" in red(done.stdout)


def test_what_wavers_is_listed_though_it_passes_in_the_end(checkout, run_command):
    done = run_command(["bash", checkout(TESTS + WAVERING) / ".ci" / "run"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_it.py::test_wavers: failed, then passed" in red(done.stdout)


def test_nothing_is_listed_when_nothing_fails(checkout, run_command):
    done = run_command(["bash", checkout("def test_works():\n    pass\n") / ".ci" / "run"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert red(done.stdout) == []
