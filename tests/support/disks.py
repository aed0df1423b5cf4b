"""Disks of a test's own, where the machine allows mounting one."""

import subprocess
from pathlib import Path


def mount(where: Path, options: str) -> bool:
    """Whether a tmpfs could be mounted; containers may forbid it."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
