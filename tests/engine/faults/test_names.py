"""Names that are no UTF-8, on terminals that know ASCII or Latin-1 alone: everything is trained, written and said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from runs import rows

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN_1 = {"PYTHONIOENCODING": "latin-1"}


def named(name: bytes) -> str:
    return os.fsdecode(name)


@pytest.fixture
def data(tiny_dataset, tmp_path) -> Path:
    """The tiny dataset, itself, two of its classes and an image by names that are not ASCII, or not even UTF-8."""
    root = tmp_path / named(b"d\xe4ta")
    shutil.copytree(tiny_dataset, root, ignore=shutil.ignore_patterns(".index"))
    for split in ("train", "val"):
        cats = (root / split / "cat").rename(root / split / named(b"ch\xe2t"))
        (root / split / "dog").rename(root / split / "Schneehund \N{SNOWMAN}")
        min(cats.iterdir()).rename(cats / named(b"$\xff$.jpg"))
    return root


@pytest.mark.parametrize("terminal", [ASCII, LATIN_1], ids=["ASCII", "Latin-1"])
def test_everything_works_under_any_name_on_any_terminal(run_command, data, tmp_path, terminal):
    run, weights = tmp_path / named(b"r\xfcn"), tmp_path / named(b"w\xff.onnx")
    image, sheet = data / "val" / named(b"ch\xe2t") / named(b"$\xff$.jpg"), tmp_path / named(b"sheet\xff.png")
    tiny = "--network.name debug --precision fp32 --schedule.epochs 1 --data.batch_size 16 --optimizer.lr 0.01"
    commands = {
        "train": ["engine/train.py", "--data.path", data, "--run.dir", run, *tiny.split()],
        "report": ["engine/report.py", run],
        "evaluate": [
            "engine/evaluate.py",
            "--weights",
            run,
            "--data.path",
            data,
            "--json",
            tmp_path / "evaluated.json",
        ],
        "export": ["engine/export.py", "--weights", run, "--format", "onnx", "--output", weights],
        "predict": ["engine/predict.py", "--weights", weights, image, "--json", tmp_path / "p.json", "--sheet", sheet],
    }
    for name, command in commands.items():
        done = run_command(command, env=terminal)
        assert done.returncode == 0, (name, done.stderr)
        assert "Traceback" not in done.stderr + done.stdout
    assert [row["event"] for row in rows(run, "event")] == []
    assert r"Schneehund" in (run / "report.html").read_text(encoding="utf-8")
    [predicted] = json.loads((tmp_path / "p.json").read_text())["images"]
    assert predicted["image"] == str(image)
    assert sheet.stat().st_size > 1000
    classes = json.loads((run / "evaluation.json").read_text())["classes"]
    assert named(b"ch\xe2t") in [os.fsdecode(os.fsencode(name)) for name in classes]
