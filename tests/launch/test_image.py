"""The Dockerfile, held against the clone that it copies; no container daemon is asked."""

from __future__ import annotations

import fnmatch
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
    patterns = (ROOT / ".dockerignore").read_text().split()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    left_out = []
    for pattern in patterns:  # at the top alone, unless it begins with **
        parts = {part for name in tracked for part in Path(name).parts[: None if pattern.startswith("**/") else 1]}
        left_out += fnmatch.filter(parts, pattern.removeprefix("**/"))
    assert left_out == []
    assert {".venv*", ".git"} <= set(patterns)
