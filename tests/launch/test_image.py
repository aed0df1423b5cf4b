"""The Dockerfile, held against the clone that it copies; no container daemon is asked."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[list[str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    return [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]


def test_every_script_that_it_runs_is_there_and_takes_what_it_is_given():
    steps = [words for name, text in instructions() if name in ("RUN", "CMD") for words in [text]]
    scripts = {word for step in steps for word in re.findall(r"launch/\w+\.sh", step)}
    assert scripts == {"launch/setup.sh", "launch/quickstart.sh"}
    assert all((ROOT / script).is_file() for script in scripts)
    (default,) = [text.partition("=")[2] for name, text in instructions() if name == "ARG"]
    assert default in (ROOT / "launch" / "setup.sh").read_text()


def test_the_shell_can_read_every_step():
    for name, text in instructions():
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", text], check=True)
            assert shlex.split(text)


def test_nothing_that_the_repository_tracks_is_left_out():
    """Only what git ignores."""
    left_out, ignored = ((ROOT / name).read_text().split() for name in (".dockerignore", ".gitignore"))
    assert ".venv*" in left_out
    assert {pattern.removeprefix("**/") for pattern in left_out} - {pattern.strip("/") for pattern in ignored} == {
        ".git"
    }
