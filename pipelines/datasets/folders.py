"""Samples in a folder of class folders."""

import errno
import hashlib
import os
import unicodedata
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipelines.datasets.files import FINAL, retried
from pipelines.datasets.image_names import INDEX, is_image, kind_of, left_behind
from pipelines.datasets.passed_over import PassedOver
from pipelines.datasets.source import Aside, Found, Source
from pipelines.support.errors import DataError


class Folders(Source):
    """One folder a class; images may lie in folders below it. Links are followed. held_out: the share of each class that is
    the val split, where the folders hold both splits; which images those are depends on their names alone."""

    kind, separator, own_files = "folders", "/", True

    def __init__(self, root: Path, split: str, classes: list[str], held_out: float = 0.0) -> None:
        super().__init__(root, split)
        self.groups, self.held_out = classes, held_out

    def state(self) -> list[list]:
        states = [[name, (self.root / name).stat().st_mtime_ns] for name in self.groups]
        return [*states, ["held out", self.held_out, self.split]] if self.held_out else states

    def holds_images(self, folder: str) -> bool:
        """Whether there are images in or below a folder of the root."""
        return next(images_below(self.root, folder, Aside.none()), None) is not None

    def check(self) -> None:
        empty = [name for name in self.groups if not self.holds_images(name)]
        if empty:
            aside = Aside.none()
            list(images_below(self.root, empty[0], aside))
            more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
            besides = f" ({aside.passed_over})" if aside.passed_over else ""
            advice = "add some or remove the folder"
            if ".tar" in aside.passed_over:
                advice = f"name shards by a pattern: --data.{self.split} '{self.root}/*/*.tar'"
            raise DataError(f"class folder {self.root / empty[0]}{more} holds no images{besides}; {advice}")

    def samples(self, group: int) -> Iterator[Found]:
        folder = self.groups[group]
        places = images_below(self.root, folder, self._aside)
        for place in self._of_split(list(places)) if self.held_out else places:
            try:
                size = retried(partial(os.stat, f"{self.root}/{place}")).st_size
            except OSError as error:
                if error.errno not in FINAL:
                    raise
                size = 0  # a dangling link: whoever reads it says so
            yield Found(place[len(folder) + 1 :], place.rpartition("/")[0] + "/", 0, size)

    def _of_split(self, places: list[str]) -> list[str]:
        """The images of a class that are this split's: of several at least one is held out, and one is not."""
        count = min(max(round(len(places) * self.held_out), 1), len(places) - 1)
        held_out = set(sorted(places, key=_drawn)[:count])
        return [place for place in places if (place in held_out) == (self.split == "val")]

    def file(self, group: int, name: str) -> str:
        return f"{self.root}/{self.groups[group]}/{name}"


def _drawn(place: str) -> bytes:
    """A random number for a name, the same on every machine."""
    return hashlib.blake2b(os.fsencode(unicodedata.normalize("NFC", place)), digest_size=8).digest()


def class_folders(root: Path) -> tuple[list[str], PassedOver]:
    """The class folders in a folder, sorted, and what else lies in it."""
    classes, passed_over = [], PassedOver()
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            what = _what(entry)
            if entry.name == INDEX:
                continue
            if what == "folder":
                classes.append(entry.name)
            else:
                passed_over.add("image in no class folder" if what == "image" else what, _shown(entry))
    return classes, passed_over


def images_below(root: Path, place: str, aside: Aside, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Images in and below a folder, by their names relative to `root`, as `place` is: sorted, folders last; what else lies
    there goes into `aside`. above: what identifies the folders on the way, each of which is searched through once."""
    stat = (root / place).stat()
    identity = (stat.st_dev, stat.st_ino)
    if identity in above:
        aside.passed_over.add("link to a folder above itself", place)
        return
    if above:  # taken before listing: a later change is then seen as one
        aside.folders[place] = stat.st_mtime_ns
    start = f"{place}/" if place else ""
    images, folders = [], []
    with os.scandir(root / place) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            what = _what(entry)
            if entry.name == INDEX:
                continue
            if what == "image":
                images.append(entry.name)
            elif what == "folder":
                folders.append(entry.name)
            else:
                aside.passed_over.add(what, start + _shown(entry))
    yield from (start + name for name in images)
    for name in folders:
        yield from images_below(root, start + name, aside, (*above, identity))


def _shown(entry: os.DirEntry) -> str:
    """Its name, of a folder with a slash: it is not searched through, and counts as one."""
    return entry.name + "/" * entry.is_dir(follow_symlinks=False)


def _what(entry: os.DirEntry) -> str:
    """ "image", also for one behind a link that leads nowhere now, "folder", or what else it is."""
    if what := left_behind(entry.name):
        return what
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file() or (entry.is_symlink() and is_image(entry.name)):
            return "image" if is_image(entry.name) else kind_of(entry.name)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return "link to itself"
    return "link to nothing" if entry.is_symlink() else "pipe, socket or device"
