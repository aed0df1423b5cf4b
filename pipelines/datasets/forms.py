"""The forms that a dataset may have, and how they are recognised: class folders, tar shards, FFCV's files."""

import os
from pathlib import Path

from pipelines.datasets.beton import Beton
from pipelines.datasets.folders import Folders
from pipelines.datasets.shards import Shards
from pipelines.datasets.source import Source
from pipelines.support.errors import DataError, nearest


def find_source(path: Path, split: str) -> Source:
    """The source of PATH/split/<class>/*, PATH/split/*.tar, PATH/split-*.tar or PATH/split.beton; DataError when there
    is none."""
    if not path.exists():
        raise DataError(f"data directory {path} does not exist")
    if not path.is_dir():
        raise DataError(
            f"{path} is no directory; give the one that holds '{split}' (class folders, tar shards or a .beton)"
        )
    below = path / split
    beside = sorted(entry.name for entry in path.glob(f"{split}-*.tar"))
    inside = sorted(entry.name for entry in below.glob("*.tar"))
    beton = (path / f"{split}.beton").is_file()
    classes: list[str] = []
    if below.is_dir():
        classes = sorted(entry.name for entry in os.scandir(below) if entry.is_dir() and not entry.name.startswith("."))
    forms = {f"{split}-*.tar": beside, f"{split}/*.tar": inside, "folders": classes, f"{split}.beton": beton}
    found = [what for what, there in forms.items() if there]
    if len(found) > 1:
        raise DataError(f"{path} holds the '{split}' split more than once ({' and '.join(found)}); keep one of them")
    if beton:
        return Beton(path, split)
    if beside:
        return Shards(path, split, beside)
    if inside:
        return Shards(below, split, inside)
    if classes:
        return Folders(below, split, classes)
    if below.is_dir():
        raise DataError(f"{below} holds no class folders and no tar shards; expected {split}/<class>/*.jpg")
    entries = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    raise DataError(
        f"no '{split}' split in {path}: expected {split}/<class>/*.jpg, {split}/*.tar, {split}-*.tar or {split}.beton"
        + (nearest(split, entries) if entries else "; the directory is empty")
    )
