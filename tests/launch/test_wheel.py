"""The wheel, in an environment with nothing of this repository in it, used from another directory by its programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import tars

pytestmark = pytest.mark.usefixtures("one_core")
ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("inception", "pipelines", "engine", "launch", "benchmarks")
NO_PART = ("__pycache__", ".index", "results")


def call(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a command printed, which ended well. Nothing leads it to this repository."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "INCEPTION_PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=kept | {"CUDA_VISIBLE_DEVICES": ""} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the files, since building writes beside them."""
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns(*NO_PART)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=ignore)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, source, cwd=source)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory) -> Path:
    """The folder of the programs of an empty environment with the wheel in it; what it depends on is taken from here."""
    environment = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    call(*pip, "install", "--no-deps", "--no-index", wheel, cwd=environment)
    packages = next((environment / "lib").glob("python3*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def test_the_wheel_has_every_file_that_is_not_a_result(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    missing = [
        name
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and not set(NO_PART) & set(path.parts)
        if (name := str(path.relative_to(ROOT))) not in held
    ]
    assert missing == []


@pytest.mark.timeout(1200)
def test_its_programs_train_evaluate_predict_export_and_check_from_another_directory(programs, tmp_path):
    small = ["--schedule.epochs", "1", "--network.width", "0.25"]
    printed = call(programs / "inception-train", "--run.dir", "run", *small, cwd=tmp_path)
    assert "on the embedded sample" in printed
    call(programs / "inception-evaluate", "--weights", "run", "--json", "evaluation.json", cwd=tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["count"] == 1000

    shard = next(programs.parent.glob("lib/python3*/site-packages/pipelines/sample/val-000.tar"))
    tars.unpack(shard, tmp_path / "data" / "val")
    image = next((tmp_path / "data" / "val").rglob("*.jpg"))
    call(programs / "inception-predict", "--weights", "run", image, "--json", "predictions.json", cwd=tmp_path)
    assert json.loads((tmp_path / "predictions.json").read_text())
    export = ["--weights", "run", "--format", "safetensors", "--output", "weights.safetensors"]
    call(programs / "inception-export", *export, cwd=tmp_path)
    assert (tmp_path / "weights.safetensors").is_file()
    assert "1,000" in call(programs / "inception-doctor", tmp_path / "data", cwd=tmp_path)
    call(programs / "inception-prepare", "--help", cwd=tmp_path)


@pytest.mark.timeout(1200)
def test_its_benchmarks_leave_their_results_where_they_were_called(programs, tmp_path):
    brief = ["--networks", "debug", "--batch-sizes", "4", "--windows", "1", "--seconds", "0.1", "--no-trial", "--peers"]
    call(programs / "python", "-m", "benchmarks.throughput", *brief, cwd=tmp_path)
    assert list((tmp_path / "benchmarks" / "results").glob("throughput-*.json"))
