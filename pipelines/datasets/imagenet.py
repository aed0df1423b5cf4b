"""ImageNet (ILSVRC 2012) in the archives that its authors hand out, read where they lie, without unpacking.

The training archive is a tar of one tar a class (n01440764.tar, ...), none of them compressed, so that every image has
an offset in the one file. The validation archive is a flat tar; its labels come from the development kit or a mapping.
"""

import io
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from pipelines.datasets.files import check_regular, is_there
from pipelines.datasets.image_names import is_image, kind_of, left_behind, suffix
from pipelines.datasets.source import Found, Source
from pipelines.datasets.tar_files import File, list_files
from pipelines.support.errors import DataError, nearest

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_WORDNET_ID = re.compile(r"n\d{8}")


class Archive(Source):
    """Images inside one uncompressed tar file, addressed by their offset in it."""

    separator = ":"

    def __init__(self, file: Path, split: str) -> None:
        if not is_there(file):
            raise DataError(f"{file} does not exist")
        check_regular(file)
        super().__init__(file, split)

    def state(self) -> list[list]:
        stat = self.root.stat()
        return [[self.root.name, stat.st_size, stat.st_mtime_ns]]

    def check(self) -> None:
        if not self.groups:
            raise DataError(f"{self.root} holds no images")

    def file(self, group: int, name: str) -> str:
        return str(self.root)

    def will_read(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Tell the system which (offset, size) are read next, so that storage works ahead of a scattered order."""
        for place, size in sorted(ranges):
            os.posix_fadvise(self.opened(0, "").descriptor, place, size, os.POSIX_FADV_WILLNEED)

    def _files(self, start: int, end: int) -> list[File]:
        """The files of the tar that lies between two offsets of the file."""
        return list_files(self.root, self._aside.passed_over, start, end)


class TrainArchive(Archive):
    """ILSVRC2012_img_train.tar; groups: its class archives."""

    kind = "imagenet-train"

    def __init__(self, file: Path) -> None:
        super().__init__(file, "train")
        self._parts = sorted((file.name, file.place, file.size) for file in self._files(0, self.root.stat().st_size))
        self.groups = [name for name, _, _ in self._parts]
        wrong = [name for name in self.groups if not _WORDNET_ID.fullmatch(name.removesuffix(".tar"))]
        if wrong:
            raise DataError(
                f"{file} holds {wrong[0]!r}, where class archives such as n01440764.tar are expected; "
                "is it ILSVRC2012_img_train.tar?"
            )

    @property
    def classes(self) -> set[str]:
        """WordNet identifiers."""
        return {name.removesuffix(".tar") for name in self.groups}

    def samples(self, group: int) -> Iterator[Found]:
        name, start, size = self._parts[group]
        count = 0
        for file in self._files(start, start + size):
            if not is_image(file.name) or left_behind(file.name.rpartition("/")[2]):
                self._aside.passed_over.add(kind_of(file.name), f"{name}:{file.name}")
                continue
            count += 1
            yield Found(file.name, name.removesuffix(".tar"), file.place, file.size)
        if not count:
            raise DataError(f"{self.root}: {name} holds no images")


class ValArchive(Archive):
    """ILSVRC2012_img_val.tar; one group. labels: the WordNet identifier of each image's file name."""

    kind = "imagenet-val"

    def __init__(self, file: Path, labels: dict[str, str]) -> None:
        super().__init__(file, "val")
        self.groups = [""]
        self._labels = labels

    def samples(self, group: int) -> Iterator[Found]:
        absent = set(self._labels)
        for file in self._files(0, self.root.stat().st_size):
            name = file.name.rpartition("/")[2]
            if suffix(name) == "tar":
                raise DataError(f"{self.root} holds {name!r}, no image; is it ILSVRC2012_img_val.tar?")
            if not is_image(name) or left_behind(name):
                self._aside.passed_over.add(kind_of(file.name), file.name)
                continue
            label = self._labels.get(name.rpartition(".")[0])
            if label is None:
                raise DataError(f"{self.root}: the validation labels do not name {name!r}")
            absent.discard(name.rpartition(".")[0])
            yield Found(name, label, file.place, file.size)
        for stem in sorted(absent):
            self._aside.passed_over.add("labelled, but not there", stem)


def read_labels(file: Path) -> dict[str, str]:
    """The class (WordNet identifier) of each validation image, by file name without its extension.

    From the development kit (.tar.gz), or from a text file in any of its usual forms: `image class` a line, with
    commas or blanks and perhaps more columns and a heading (Kaggle), or one class a line in the images' order.
    """
    return _labels_of_devkit(file) if file.name.endswith((".tar.gz", ".tgz", ".tar")) else _labels_of_text(file)


def _labels_of_devkit(file: Path) -> dict[str, str]:
    wanted = ("validation_ground_truth.txt", "meta.mat")
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(file) as kit:
            for member in kit:
                for end in wanted:
                    if member.isreg() and member.name.endswith(end):
                        found[end] = kit.extractfile(member).read()  # type: ignore[union-attr]
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"development kit {file} cannot be read ({error}); give {DEVKIT} or a file of labels") from None
    missing = [end for end in wanted if end not in found]
    if missing:
        raise DataError(f"development kit {file} holds no {missing[0]}; expected {DEVKIT}")
    identifiers = _identifiers(found["meta.mat"], file)
    labels = {}
    for number, line in enumerate(found["validation_ground_truth.txt"].split(), 1):
        if not line.isdigit() or int(line) not in identifiers:
            raise DataError(f"{file}: validation label {number} is {line.decode(errors='replace')!r}, no class number")
        labels[_val_stem(number)] = identifiers[int(line)]
    return labels


def _identifiers(meta: bytes, file: Path) -> dict[int, str]:
    """The WordNet identifier of each class number, of the 1000 low-level classes and those above them."""
    from scipy.io import loadmat  # takes half a second, which only this needs

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        numbers, identifiers = np.atleast_1d(synsets["ILSVRC2012_ID"]), np.atleast_1d(synsets["WNID"])
    except Exception as error:  # scipy raises anything on damaged files
        raise DataError(f"meta.mat in {file} cannot be read ({error}); expected {DEVKIT}") from None
    return {int(number): str(identifier) for number, identifier in zip(numbers, identifiers)}


def _labels_of_text(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"file of validation labels {file} cannot be read: {error}") from None
    labels: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = re.split(r"[,;\s]+", line.strip())
        at = next((at for at, word in enumerate(words[:2]) if _WORDNET_ID.fullmatch(word)), None)
        if at is None and (number == 1 or words == [""]):
            continue  # a heading, or an empty line
        if at is None:
            raise DataError(f"{file}, line {number}: expected `image class` or a class such as n01440764, got {line!r}")
        image = words[0].rpartition("/")[2].removesuffix(".JPEG") if at else _val_stem(len(labels) + 1)
        labels[image] = words[at]
    if not labels:
        raise DataError(f"file of validation labels {file} names no class such as n01440764")
    return labels


def _val_stem(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}"


@cache
def open_val(file: Path, labels: Path | None, train: Path | None) -> ValArchive:
    """The validation archive with its labels: from the file given, or the development kit beside it.

    DataError when a label is none of the training archive's classes.
    """
    labels = labels or file.with_name(DEVKIT)
    if not labels.is_file():
        raise DataError(
            f"no labels for {file}: {labels} does not exist; give --devkit {DEVKIT}, which comes with the images, "
            "or --val-labels FILE"
        )
    named = read_labels(labels)
    if train is not None:
        classes = open_train(train).classes
        unknown = sorted(set(named.values()) - classes)
        if unknown:
            raise DataError(
                f"{labels} names class {unknown[0]!r}, which is none of the {len(classes)} in {train}"
                + nearest(unknown[0], classes)
            )
    return ValArchive(file, named)


@cache
def open_train(file: Path) -> TrainArchive:
    """The training archive; its headers are read once a process."""
    return TrainArchive(file)
