"""A check-up of a whole dataset: every image decoded once by a team, and what only shows when they are compared."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.checking.image_check import Condition, examine
from pipelines.datasets.dataset import Dataset, open_dataset
from pipelines.support.errors import DataError
from pipelines.support.progress import progress_bar
from pipelines.support.work_sharing import Team

_CHUNK = 128  # images a task
RECORD = np.dtype([("condition", "<u2"), ("width", "<u2"), ("height", "<u2"), ("label", "<i4"), ("digest", "<u8", 2)])


class Image(NamedTuple):
    """An image of the dataset: its split and its position there."""

    split: str
    position: int


@dataclass(frozen=True)
class Split:
    """One split, examined. records: structured array (n,) of `RECORD`; reasons: by position."""

    dataset: Dataset
    records: np.ndarray
    reasons: dict[int, str]

    def having(self, condition: Condition) -> np.ndarray:
        """int64 (n,): the positions of the images with any of these conditions."""
        return np.flatnonzero(self.records["condition"] & int(condition))


@dataclass(frozen=True)
class Checkup:
    """A dataset's splits by name; groups: the images that show the same picture, two or more each, training images
    first; smallest: pixels on the shorter side below which an image counted as tiny; refused: what training refuses of the
    splits together, a line each."""

    path: Path
    splits: dict[str, Split]
    groups: list[list[Image]]
    smallest: int
    refused: list[str]

    def within(self, split: str) -> list[list[Image]]:
        """The groups that hold several images of a split, without those of other splits."""
        parts = [[image for image in group if image.split == split] for group in self.groups]
        return [part for part in parts if len(part) > 1]

    def leaks(self) -> list[list[Image]]:
        """The groups that hold images of both splits."""
        return [group for group in self.groups if len({image.split for image in group}) > 1]

    def conflicts(self) -> list[list[Image]]:
        """The groups whose images are not all of one class."""
        return [group for group in self.groups if len({self.class_of(image) for image in group}) > 1]

    def class_of(self, image: Image) -> str:
        split = self.splits[image.split]
        return split.dataset.classes[split.records["label"][image.position]]

    def name(self, image: Image) -> str:
        """As quarantine files hold it."""
        return self.splits[image.split].dataset.short_name(image.position)


def check_up(path: Path, splits: list[str], smallest: int, team: Team) -> Checkup:
    """Examine every image of the splits, in parallel; DataError when the dataset cannot be opened."""
    datasets = {split: open_dataset(path, split, renew=True) for split in splits}
    total = sum(len(dataset) for dataset in datasets.values())
    tasks = [
        (path, split, start, min(start + _CHUNK, len(dataset)), smallest)
        for split, dataset in datasets.items()
        for start in range(0, len(dataset), _CHUNK)
    ]
    examined = {split: Split(dataset, np.zeros(len(dataset), RECORD), {}) for split, dataset in datasets.items()}
    with progress_bar("Decoding", total, "images") as advance:
        for number, (records, reasons) in team.run(_examine_chunk, tasks):
            _, split, start, stop, _ = tasks[number]
            examined[split].records[start:stop] = records
            examined[split].reasons.update(reasons)
            advance(stop - start)
    return Checkup(path, examined, _same_pictures(examined), smallest, _refused(path, datasets))


def _refused(path: Path, datasets: dict[str, Dataset]) -> list[str]:
    """What no split shows alone: classes of val that train lacks, and a train split of one class."""
    lines = []
    train = datasets.get("train")
    if train is not None and len(train.classes) == 1:
        lines.append(f"{path} (train) holds one class, {train.classes[0]!r}: nothing can be learned from it")
    if train is not None and "val" in datasets:
        try:
            open_dataset(path, "val", classes=train.classes, progress=False)
        except DataError as error:
            lines.append(str(error))
    return lines


@cache
def _opened(path: Path, split: str) -> Dataset:
    return open_dataset(path, split, progress=False)


def _examine_chunk(task: tuple[Path, str, int, int, int]) -> tuple[np.ndarray, dict[int, str]]:
    path, split, start, stop, smallest = task
    dataset = _opened(path, split)
    records, reasons = np.zeros(stop - start, RECORD), {}
    records["label"] = dataset.labels(np.arange(start, stop))
    for position in range(start, stop):
        record = records[position - start]
        try:
            data = dataset.read(position)
        except DataError as error:
            record["condition"], reasons[position] = int(Condition.CORRUPT), str(error)
            continue
        found = examine(data, dataset.short_name(position), smallest)
        record["condition"], record["width"], record["height"] = int(found.condition), found.width, found.height
        record["digest"] = np.frombuffer(found.digest or bytes(16), "<u8")
        if found.reason:
            reasons[position] = found.reason
    return records, reasons


def _same_pictures(splits: dict[str, Split]) -> list[list[Image]]:
    """Groups of images with the same digest, in the order of their first image."""
    digests = np.concatenate([split.records["digest"] for split in splits.values()])
    names = list(splits)
    starts = np.cumsum([0, *(len(split.records) for split in splits.values())])
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal ones stay in their order
    ordered = digests[order]
    bounds = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1), True])
    groups = []
    for run in np.flatnonzero(np.diff(bounds) > 1):
        if ordered[bounds[run]].any():  # no digest: not decoded
            members = order[bounds[run] : bounds[run + 1]]
            places = np.searchsorted(starts, members, side="right") - 1
            groups.append([Image(names[place], int(member - starts[place])) for place, member in zip(places, members)])
    return sorted(groups, key=lambda group: (names.index(group[0].split), group[0].position))
