"""Samples that a list names: a path and a label a line, as in CSV files, Kaggle's solutions, Caffe's text lists."""

import codecs
import csv
import errno
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.datasets.files import ABSENT, check_regular, is_folder, mode_of, retried
from pipelines.datasets.folders import images_below
from pipelines.datasets.image_names import IMAGES, is_image
from pipelines.datasets.several_labels import COLUMNS, are_flags, are_several, of_cell, of_flags
from pipelines.datasets.source import Aside, Found, Source
from pipelines.support.errors import DataError

# What the columns of paths and of labels are called, the surest first.
_PATHS = ("path", "file_path", "filepath", "image_path", "img_path", "file_name", "filename", "file", "image_name", "image",
          "img", "image_id", "imageid", "name", "id")  # fmt: skip
_LABELS = ("label", "labels", "class", "class_name", "classname", "class_id", "category", "target", "species", "breed",
           "wnid", "synset", "predictionstring", "y", "tags", "classes", "categories", "finding labels")  # fmt: skip
_WORDNET_ID = re.compile(r"n\d{8}(?!\S)")
_ADDED = ("", ".jpg", ".JPEG", ".jpeg", ".png", ".JPG")  # what lists that name images by number leave out
_ABOVE = 3  # folders up in which Kaggle's labels lie


ENDINGS = (".csv", ".tsv", ".txt", ".lst")


def list_names(called: str, *others: str) -> set[str]:
    """What the list of a split's labels may be called, in lower case; others: further names without an ending."""
    stems = (called, *(f"{called}_{what}" for what in ("labels", "list", "annotations", "map")), *others)
    return {stem + ending for stem in stems for ending in ENDINGS}


def find_list(folder: Path, top: Path, called: str, split: str) -> Path | None:
    """The list of the labels of a split's images: in their folder, beside it, or where Kaggle has it; DataError when there
    are several."""
    solution = f"LOC_{split}_solution.csv"
    for place, wanted in (
        (folder, list_names(called, "labels", "annotations", "metadata")),
        (top, list_names(called) | {solution.lower()}),
        *((above, {solution.lower()}) for above in top.parents[:_ABOVE]),
    ):
        found = sorted(name for name in os.listdir(place) if name.lower() in wanted)  # noqa: PTH208
        if len(found) > 1:
            raise DataError(
                f"{place} holds several lists of labels ({', '.join(found)}); keep one, or name it: --data.{split}"
            )
        if found:
            return place / found[0]
    return None


class Listed(Source):
    """The images that a list names. bases: folders that its paths may be relative to; folder: where all images lie, so that
    those which the list does not name can be counted."""

    kind, separator, own_files = "list", ":", True

    def __init__(self, file: Path, split: str, bases: Sequence[Path] = (), folder: Path | None = None) -> None:
        super().__init__(file.parent, split)
        self.groups = [file.name]
        usual = (file.parent / name for name in (file.stem, file.stem.partition("_")[0], split, "images"))
        self.bases = [*bases, file.parent, *filter(is_folder, usual), file.parent.parent]
        self.list_file, self.folder = file, folder
        self.remarks.append(f"labels from {file}" + ("" if folder else "; only what it lists is used"))

    def state(self) -> list[list]:
        found = self.list_file.stat()
        common = [[str(self.folder), self.folder.stat().st_mtime_ns]] if self.folder else []
        return [[self.groups[0], found.st_size, found.st_mtime_ns], *common]

    def check(self) -> None:
        """Nothing can be said before the list is read: `samples` does."""

    def samples(self, group: int) -> Iterator[Found]:
        seen: dict[str, str] = {}
        guess = (self.bases[0], "")
        for number, path, label in read_rows(self.list_file):
            found = self._resolved(path, guess)
            if found is None:
                if path.startswith("#"):  # a comment, since no file is called so
                    continue
                self._aside.passed_over.add("listed, but not there", path)
                self._watch(path)
                continue
            name, size, guess = found
            if size < 0:
                self._aside.passed_over.add("pipe, socket, device or folder", path)
                continue
            if name in seen:
                if seen[name] != label:
                    raise DataError(
                        f"{self.list_file}, line {number}: {path} is listed as {seen[name]!r} and {label!r}"
                    )
                self._aside.passed_over.add("listed again", path)
                continue
            seen[name] = label
            yield Found(name, label, 0, size)
        if not seen:
            raise DataError(
                f"{self.list_file} names no image that is there: {self._aside.passed_over or 'it is empty'}"
            )
        if self.folder is not None:
            self._count_unlisted(self.folder, seen)

    def _count_unlisted(self, folder: Path, seen: dict[str, str]) -> None:
        aside = Aside.none()
        for name in images_below(folder, "", aside):
            if self._named(folder / name) not in seen:
                self._aside.passed_over.add("not listed", name)
        for kind in [kind for kind in aside.passed_over if kind in ENDINGS and self.list_file.parent == folder]:
            count, names = aside.passed_over.pop(kind)
            names = [name for name in names if name != self.list_file.name]
            if count > 1:
                aside.passed_over[kind] = count - 1, names
        self._aside.passed_over.join(aside.passed_over)
        self._aside.folders.update({str(folder / below): time for below, time in aside.folders.items()})

    def _watch(self, path: str) -> None:
        """Let the index be out of date as soon as something comes to where a listed file is missing."""
        for base in dict.fromkeys(self.bases):
            above = next(folder for folder in (base / path).parents if is_folder(folder))
            self._aside.folders.setdefault(str(above), above.stat().st_mtime_ns)

    def _resolved(self, path: str, guess: tuple[Path, str]) -> tuple[str, int, tuple[Path, str]] | None:
        """The name and size (-1: it is no file; 0 for a link that leads nowhere now) of what is listed, and where it was found:
        the folder that the path is relative to, and what the list leaves out at its end. What held for the line before is tried
        first."""
        added = ("",) if path.rpartition(".")[2].lower() in IMAGES else _ADDED
        for base, end in (guess, *((base, end) for base in self.bases for end in added)):
            file = base / (path + end)
            try:
                found = retried(file.stat)
                size = found.st_size if stat.S_ISREG(found.st_mode) else -1
                return self._named(file), size, (base, end)
            except OSError as error:
                if error.errno in (*ABSENT, errno.ELOOP) and stat.S_ISLNK(mode_of(file, links=True)):
                    return self._named(file), 0, (base, end)
                if error.errno not in ABSENT:
                    raise
        return None

    def _named(self, file: Path) -> str:
        return os.path.relpath(file, self.root) if file.is_relative_to(self.root) else str(file)

    def file(self, group: int, name: str) -> str:
        return name if name.startswith("/") else f"{self.root}/{name}"


def read_rows(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line, path, label) for each line; DataError when one has no label. A line that begins with # may be a comment, or name a
    file that does: whoever looks for it knows."""
    try:
        check_regular(file)
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"list {file} cannot be read: {error.strerror}") from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as spreadsheets write "Unicode text"
    text = data.decode("utf-16", "replace") if wide else data.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise DataError(f"list {file} is no text in UTF-8 or in UTF-16 with its mark; save it as UTF-8")
    # Python's own splitlines would end lines in the middle of names, at characters such as U+2028.
    lines = [(number, line) for number, line in enumerate(io.StringIO(text, None), 1) if line.strip()]
    if not lines:
        raise DataError(f"list {file} is empty; expected `path,label` a line")
    first = next((line for _, line in lines if line[0] != "#"), lines[0][1]).rstrip("\n")
    separator = next((mark for mark in ("\t", ",", ";") if mark in first), "")
    if not is_image(first.partition(separator or " ")[0]) and is_image(_cells(first, "")[0]):
        separator = ""  # what it holds stands in a name
    heading = [cell.strip().lower() for cell in _cells(first, separator)]
    label_at = next((heading.index(name) for name in _LABELS if name in heading), -1)
    has_heading = label_at >= 0

    def rows() -> Iterator[tuple[int, str, list[str]]]:
        """Each line with its cells, one after the other: all at once would take several times the list's size."""
        return ((number, line, _cells(line.rstrip("\n"), separator)) for number, line in lines)

    if not has_heading and heading and heading[0] in _PATHS:
        classes = _cells(first, separator)[1:]
        others = (cells for _, line, cells in rows() if line[0] != "#" and line.rstrip("\n") != first)
        if not are_flags(next(others, [])[1:]):
            raise DataError(f"{file}: its heading ({first}) names no column of labels, such as label or class")
        for number, line, cells in rows():
            if line[0] != "#" and line.rstrip("\n") != first:
                label = of_flags(cells[1:], [name.strip() for name in classes], f"{file}, line {number}")
                yield number, cells[0].strip().replace("\\", "/"), label
        return
    path_at, label_at = (_path_column(heading), label_at) if has_heading else (0, 1)
    plural = has_heading and heading[label_at] in COLUMNS
    several = plural and are_several(cells[label_at].strip() for _, _, cells in rows() if label_at < len(cells))
    for number, line, cells in rows():
        if has_heading and line.rstrip("\n") == first:
            continue
        path, label = (cells[at].strip() if at < len(cells) else "" for at in (path_at, label_at))
        if several and label_at < len(cells):
            label = of_cell(label, f"{file}, line {number}")
        elif id_ := _WORDNET_ID.match(label):  # Kaggle's solutions have a box behind it
            label = id_[0]
        if path and label.rstrip("/"):
            yield number, path.replace("\\", "/"), label.rstrip("/")
        elif line[0] != "#":
            raise DataError(f"{file}, line {number}: expected a path and a label, got {line.strip()!r}")


def _path_column(heading: list[str]) -> int:
    return next((heading.index(name) for name in _PATHS if name in heading), 0)


def _cells(line: str, separator: str) -> list[str]:
    """A line's cells, none where a quote is not closed. Separated by blanks, the label is the last word: paths may hold
    blanks."""
    if not separator:
        return line.strip().rsplit(None, 1)
    try:
        return next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error:
        return []
