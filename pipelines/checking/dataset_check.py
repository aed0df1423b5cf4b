"""A check-up of a whole dataset: every image decoded once by a team, and what only shows when they are compared."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from pipelines.checking.image_check import Condition, examine
from pipelines.datasets.dataset import Dataset
from pipelines.datasets.folders import Folders
from pipelines.datasets.location import Location
from pipelines.datasets.source import Source
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
    splits together, a line each; not_examined: by split, why a class folder, a shard, or the whole of it could not be
    examined, a line each."""

    location: Location
    splits: dict[str, Split]
    groups: list[list[Image]]
    smallest: int
    refused: list[str]
    not_examined: dict[str, list[str]]

    @property
    def title(self) -> str:
        """The dataset in a word."""
        return str(self.location).rpartition("/")[2]

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


def check_up(location: Location, splits: list[str], smallest: int, team: Team) -> Checkup:
    """Examine every image of the splits, in parallel, but for those of class folders and shards that are damaged.
    DataError when nothing can be examined."""
    datasets: dict[str, Dataset] = {}
    not_examined: dict[str, list[str]] = {}
    left_out: dict[str, frozenset[str]] = {}
    for split in splits:
        dataset, damage = _what_opens(location, split, team)
        left_out[split] = frozenset(damage)
        if dataset is not None:
            datasets[split] = dataset
        if damage:
            not_examined[split] = list(damage.values())
    if not datasets:
        raise DataError(in_a_line(not_examined))
    for dataset in datasets.values():
        dataset.require_single_labels("doctor.py")
    total = sum(len(dataset) for dataset in datasets.values())
    tasks = [
        (location, split, left_out[split], start, min(start + _CHUNK, len(dataset)), smallest)
        for split, dataset in datasets.items()
        for start in range(0, len(dataset), _CHUNK)
    ]
    examined = {split: Split(dataset, np.zeros(len(dataset), RECORD), {}) for split, dataset in datasets.items()}
    with progress_bar("Decoding", total, "images") as advance:
        for number, (records, reasons) in team.run(_examine_chunk, tasks):
            _, split, _, start, stop, _ = tasks[number]
            examined[split].records[start:stop] = records
            examined[split].reasons.update(reasons)
            advance(stop - start)
    refused = _refused(location, datasets, left_out)
    return Checkup(location, examined, _same_pictures(examined), smallest, refused, not_examined)


def in_a_line(not_examined: dict[str, list[str]]) -> str:
    """All that could not be examined."""
    wrong = list(dict.fromkeys(line for lines in not_examined.values() for line in lines))
    return wrong[0] if len(wrong) == 1 else f"{len(wrong)} parts were not examined: {'; '.join(wrong)}"


def _what_opens(location: Location, split: str, team: Team) -> tuple[Dataset | None, dict[str, str]]:
    """A split without its class folders and shards that cannot be listed, and by their names why; no dataset where nothing
    of it can be opened."""
    try:
        return location.open(split, renew=True), {}
    except DataError as error:
        reason = str(error)
    try:
        groups = location.source(split).groups
        tasks = [(location, split, group) for group in range(len(groups))]
        with progress_bar(f"Listing {split}", len(tasks)) as advance:
            found = {}
            for number, why in team.run(_why_not, tasks):
                found[number] = why
                advance(1)
        damage = {groups[number]: found[number] for number in sorted(found) if found[number]}
        if 0 < len(damage) < len(groups):
            return location.open(split, renew=True, without=frozenset(damage)), damage
    except DataError as error:
        reason = str(error)
        damage = {}
    return None, damage or {"": reason}


def _why_not(task: tuple[Location, str, int]) -> str:
    """Why a group of a split cannot be listed; empty when it can."""
    location, split, group = task
    source = _source(location, split)
    try:
        if isinstance(source, Folders) and not source.holds_images(name := source.groups[group]):
            return f"class folder {source.root / name} holds no images; add some or remove the folder"
        for _ in source.samples(group):
            pass
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or source.root} cannot be read: {error.strerror}"
    return ""


@cache
def _source(location: Location, split: str) -> Source:
    return location.source(split)


def _refused(location: Location, datasets: dict[str, Dataset], left_out: dict[str, frozenset[str]]) -> list[str]:
    """What no split shows alone: classes of val that train lacks, and a train split of one class."""
    lines = []
    train = datasets.get("train")
    if train is not None and len(train.classes) == 1 and not location.classes:
        lines.append(f"{train.path} (train) holds one class, {train.classes[0]!r}: nothing can be learned from it")
    if train is not None and "val" in datasets:
        try:
            location.open("val", classes=train.classes, progress=False, without=left_out["val"])
        except DataError as error:
            lines.append(str(error))
    return lines


@cache
def _opened(location: Location, split: str, without: frozenset[str]) -> Dataset:
    return location.open(split, progress=False, without=without)


def _examine_chunk(task: tuple[Location, str, frozenset[str], int, int, int]) -> tuple[np.ndarray, dict[int, str]]:
    location, split, without, start, stop, smallest = task
    dataset = _opened(location, split, without)
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
