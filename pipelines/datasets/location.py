"""Where a dataset lies: a folder that holds its splits, or each split by itself; and what settles its classes and its shares."""

import argparse
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pipelines.datasets.class_names import read_classes
from pipelines.datasets.dataset import Dataset, open_dataset
from pipelines.datasets.forms import HELD_OUT, SPLITS, find_source, source_at, splits_in
from pipelines.datasets.source import Source
from pipelines.support.errors import DataError

LEAST, MOST = 0.001, 0.9  # of the share held out


@dataclass(frozen=True)
class Location:
    """path: a folder that holds the splits; train, val: a split that lies apart, in any form of docs/data.md; empty: none.
    classes: a file of class names in the order of their numbers; held_out: the share of each class that is the val split
    where the folder has no splits. Can be pickled, so that workers open the same."""

    path: str = ""
    train: str = ""
    val: str = ""
    classes: str = ""
    held_out: float = HELD_OUT

    def __str__(self) -> str:
        return " and ".join(filter(None, (self.path, self.train, self.val)))

    def splits(self) -> list[str]:
        """Which of "train" and "val" there are; DataError when there is neither."""
        root, apart = Path(self.path), [split for split in SPLITS if self._apart(split)]
        if not self.path:
            if not apart:
                raise DataError("no data: give a dataset's folder, or its splits by --data.train and --data.val")
            return apart
        try:
            return [split for split in SPLITS if split in apart or split in splits_in(root, self.held_out)]
        except DataError:
            if not apart:
                raise
            return apart

    def _apart(self, split: str) -> str:
        return self.train if split == "train" else self.val

    def source(self, split: str) -> Source:
        """The source of a split; DataError when there is none."""
        apart = self._apart(split)
        return source_at(apart, split) if apart else find_source(Path(self.path), split, self.held_out)

    def class_names(self) -> tuple[str, ...] | None:
        """What the file of classes says; none without one."""
        return read_classes(Path(self.classes)) if self.classes else None

    def open(
        self,
        split: str,
        *,
        classes: tuple[str, ...] | None = None,
        progress: bool = True,
        renew: bool = False,
        without: Collection[str] = (),
    ) -> Dataset:
        """The split as `open_dataset` gives it; classes: by default those of the file."""
        apart = self._apart(split)
        return open_dataset(
            apart or self.path,
            split,
            alone=bool(apart),
            classes=self.class_names() if classes is None else classes,
            held_out=self.held_out,
            progress=progress,
            renew=renew,
            without=without,
        )


def add_location(parser: argparse.ArgumentParser) -> None:
    """The options of a `Location`, beside the dataset's folder, by the names that training gives them."""
    parser.add_argument(
        "--data.train", "--train", dest="train", type=_absolute, default="", metavar="PLACE",
        help="training split that lies apart: a folder, a shard, a list, a .beton, a pattern such as 'train-{000..127}.tar'",
    )  # fmt: skip
    parser.add_argument(
        "--data.val", "--val", dest="val", type=_absolute, default="", metavar="PLACE",
        help="validation split that lies apart",
    )  # fmt: skip
    parser.add_argument(
        "--data.classes", "--classes", dest="classes", type=_absolute, default="", metavar="FILE",
        help="class names in the order of their numbers, one a line (default: the order of the names)",
    )  # fmt: skip
    parser.add_argument(
        "--data.held_out", "--held-out", dest="held_out", type=_share, default=HELD_OUT, metavar="SHARE",
        help=f"of a folder without splits, the share of each class that is the val split (default: {HELD_OUT:g})",
    )  # fmt: skip


def location_of(options: argparse.Namespace) -> Location:
    """The place that a command line names; its `path` may be absent."""
    path = os.path.realpath(options.path) if options.path else ""
    return Location(path, options.train, options.val, options.classes, options.held_out)


def _absolute(text: str) -> str:
    """An absolute path, or pattern, that any working directory understands; empty stays empty, as argparse's default is."""
    return os.path.abspath(Path(text).expanduser()) if text else ""  # noqa: PTH100  # links are left as they are


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not LEAST <= share <= MOST:
        raise argparse.ArgumentTypeError(f"expected a share from {LEAST:g} to {MOST:g}, got {text!r}")
    return share
