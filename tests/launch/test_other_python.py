"""The quickstart from the package index, in an environment of another Python than that of the other tests, if there is one.
It prints a row of the table in docs/install.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import installations
from benchmarks.measuring.machine import LoadMeter

ROOT = Path(__file__).resolve().parents[2]
HALF_AN_HOUR = 1800


def other_version() -> str:
    """The first of the versions that set-up finds here, this Python's last."""
    own = "{}.{}".format(*sys.version_info)
    for version in ("3.13", "3.12", "3.14", "3.11"):
        # With --help set-up ends once it has found its Python.
        command = ["bash", ROOT / "launch" / "setup.sh", "--python", version, "--help"]
        if version != own and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return version
    return sys.executable


@pytest.mark.downloads
@pytest.mark.soak
@pytest.mark.timeout(2 * HALF_AN_HOUR)
def test_quickstart_with_another_python(tmp_path, monkeypatch):
    monkeypatch.delenv("INCEPTION_PYTHON", raising=False)
    version, load = other_version(), LoadMeter()
    places = {"INCEPTION_VENV": str(tmp_path / "environment"), "QUICKSTART_DIR": str(tmp_path / "run")}
    # uv, which is among the tools of development, installs in a third of pip's time.
    path = f"{os.environ['PATH']}:{Path(sys.executable).parent}"
    try:
        done = subprocess.run(
            ["bash", ROOT / "launch" / "quickstart.sh", "--python", version],
            env=os.environ | places | {"PATH": path, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=HALF_AN_HOUR,
            check=False,
        )
    finally:
        shutil.rmtree(tmp_path / "environment", ignore_errors=True)  # gigabytes that pytest would keep
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"set-up: Python {version}" in done.stdout or version == sys.executable
    assert "top-1 / top-5" in done.stdout
    print(installations.row(tmp_path / "run" / "quickstart.json", load))
