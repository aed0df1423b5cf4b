"""A dataset of a few images and a recipe that trains on them within seconds."""

from __future__ import annotations

from pathlib import Path

import tars
from pipelines import sample_path

RECIPE = Path(__file__).with_name("tiny.yaml")


def make_tiny_dataset(root: Path) -> Path:
    """Class folders with 96 training and 30 validation images of ten classes, in `root`."""
    for split, count in (("train", 96), ("val", 30)):
        tars.unpack(Path(sample_path()) / f"{split}-000.tar", root / split, count)
    return root


def tiny_options(data: Path, run: Path, **changes: object) -> list[str]:
    """Arguments of engine/train.py for a run in `run`; `data__path="x"` changes --data.path."""
    chosen: dict[str, object] = {"recipe": RECIPE, "data.path": data, "run.dir": run}
    chosen |= {name.replace("__", "."): value for name, value in changes.items()}
    return [part for name, value in chosen.items() for part in (f"--{name}", str(value))]
