"""From labels as samples carry them to classes: which name each label means, and the order that gives classes numbers.

A sample's label is text: the folder that it lies in, with "/" at its end ("imagenet/train/n01440764/"), or what is written
beside it: a name, or a number ("3"), perhaps with its name ("3<tab>cat"). Which folder of several names the class, and
whether numbers are numbers, shows only when all labels of a split are seen.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.support.errors import DataError, nearest

_WORDNET_LINE = re.compile(r"n\d{8}\b")
_SHOWN = 5  # names in a line
_SPARSEST = 1000  # numbers without images that are kept as classes, when there are more of them than classes


class Classes(NamedTuple):
    """names: the class of each label; order: all classes, by number; remarks: what was assumed, a line each."""

    names: tuple[str, ...]
    order: tuple[str, ...]
    remarks: tuple[str, ...]


def plain(name: str) -> str:
    """A class name in the one form (Unicode's NFC) in which those that look alike are alike."""
    return unicodedata.normalize("NFC", name)


def name_classes(labels: Sequence[str], where: str, expected: Sequence[str] | None = None) -> Classes:
    """The classes that different labels mean; labels: each once; where: the dataset and split, for messages; expected: the
    names that classes have by number, when that is settled already.

    Without `expected` folders and names come in the order of their text, as in torchvision's ImageFolder; numbers in their
    own, with a class for each up to the highest. DataError for labels that do not fit together, or are not expected.
    """
    folders = [label for label in labels if label.endswith("/")]
    if folders and len(folders) < len(labels):
        other = next(label for label in labels if not label.endswith("/"))
        raise DataError(
            f"{where}: some samples have a label of their own ({other.partition(chr(9))[0]!r}) and others only a folder "
            f"({folders[0]}); give all of them one"
        )
    if folders:
        names, remarks = _of_folders([label.split("/")[:-1] for label in labels], expected)
        order = sorted(set(names))
    elif labels and all(_is_number(label) for label in labels):
        names, order, remarks = _of_numbers(labels, where, expected)
    else:
        names, remarks = [plain(label.partition("\t")[2] or label) for label in labels], []
        order = sorted(set(names))
    for name in order:
        try:
            name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # a .json can name half a character
            raise DataError(f"{where} holds class {name!r}, which is no text; rename it") from None
    if expected is None:
        return Classes(tuple(names), tuple(order), tuple(remarks))
    return Classes(*_as_expected(names, order, where, expected), tuple(remarks + _reordered(order, expected)))


def read_classes(file: Path) -> tuple[str, ...]:
    """The class names that a file holds, in the order of their numbers: one a line, of Kaggle's and ImageNet's mappings the
    WordNet identifier; or JSON, a list, {"classes": [...]} or {name: number}. DataError when it holds anything else."""
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"file of classes {file} cannot be read: {error.strerror}") from None
    names: object = [line.strip() for line in text.splitlines() if line.strip()]
    if file.suffix.lower() == ".json":
        try:
            names = json.loads(text)
        except ValueError as error:
            raise DataError(f"file of classes {file} is damaged: {error}") from None
        names = names.get("classes", names) if isinstance(names, dict) else names
        if isinstance(names, dict) and sorted(map(str, names.values())) == sorted(map(str, range(len(names)))):
            names = sorted(names, key=lambda name: int(names[name]))  # type: ignore[index]
    elif isinstance(names, list) and all(_WORDNET_LINE.match(name) for name in names):
        names = [name.split()[0].rstrip(",") for name in names]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"file of classes {file} holds no list of names; expected one a line")
    twice = [name for name, count in Counter(map(plain, names)).items() if count > 1]
    if twice:
        raise DataError(f"file of classes {file} names {twice[0]!r} more than once; each class has one number")
    return tuple(names)


def _is_number(label: str) -> bool:
    number = label.partition("\t")[0]
    return number.removeprefix("-").isdecimal() and number.isascii()


def _of_folders(paths: list[list[str]], expected: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The class of each path of folders: the first folder that is not the same in all, or of one path the last."""
    shortest = min(len(path) for path in paths)
    shared = next((at for at, (one, other) in enumerate(zip(min(paths), max(paths))) if one != other), shortest)
    depth = min(shared, shortest - 1)
    if expected is not None:
        wanted = {plain(name) for name in expected}
        fitting = (depth, *range(depth - 1, -1, -1), *range(depth + 1, shortest))
        depth = next((at for at in fitting if all(plain(path[at]) in wanted for path in paths)), depth)
    names = [plain(path[depth]) for path in paths]
    deeper = sum(len(path) > depth + 1 for path in paths)
    first = "/".join(paths[0][: depth + 1])
    if depth and not deeper:
        return names, [f"classes from the last folder of each name ({first})"]
    if depth:
        return names, [f"classes from folder {depth + 1} of each name ({first})"]
    below = f"classes from the first folder of each name ({first}); {deeper:,} folders below make no classes"
    return names, [below] if deeper else []


def _of_numbers(
    labels: Sequence[str], where: str, expected: Sequence[str] | None
) -> tuple[list[str], list[str], list[str]]:
    numbers = [int(label.partition("\t")[0]) for label in labels]
    if min(numbers) < 0:
        raise DataError(f"{where}: a sample has the label {min(numbers)}, which is no class; leave it out or label it")
    name_of: dict[int, str] = {}
    for number, label in zip(numbers, labels):
        name = plain(label.partition("\t")[2]) or name_of.get(number, "")
        if name_of.setdefault(number, name) != name:
            if name_of[number]:
                raise DataError(f"{where}: label {number} is called {name_of[number]!r} and {name!r}; make it one")
            name_of[number] = name
    if expected is not None and not any(name_of.values()):
        position = {plain(name) for name in expected}
        if not all(str(number) in position for number in numbers) and max(numbers) < len(expected):
            names = [plain(expected[number]) for number in numbers]
            return (
                names,
                [plain(name) for name in expected],
                ["labels are numbers: taken as places among the known classes"],
            )
    if len({name for name in name_of.values() if name}) < sum(map(bool, name_of.values())):  # as ImageNet's two cranes
        name_of = {number: f"{name} ({number})" if name else "" for number, name in name_of.items()}
    known = sorted(set(numbers))
    gaps = sorted(set(range(known[-1])) - set(known)) if known[-1] < 2 * len(known) + _SPARSEST else []
    order = [name_of.get(number) or str(number) for number in sorted([*known, *gaps])]
    remarks = []
    if gaps:
        remarks.append(f"labels are numbers up to {known[-1]}; of {_some(map(str, gaps))} there are no images")
    elif known[-1] >= len(known):
        remarks.append(f"labels are numbers up to {known[-1]}; the {len(known)} that occur are the classes")
    return [name_of[number] or str(number) for number in numbers], order, remarks


def _as_expected(
    names: Sequence[str], order: Sequence[str], where: str, expected: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names as `expected` spells them, which gives the order."""
    spelt: dict[str, str] = {}
    for name in expected:
        spelt.setdefault(plain(name), name)
    unknown = [name for name in dict.fromkeys(names) if name not in spelt]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(
            f"{where} holds class {unknown[0]!r}{more}, which is not among the {len(spelt)} expected classes"
            f"{nearest(unknown[0], spelt)}; remove it or train with it"
        )
    return tuple(spelt[name] for name in names), tuple(expected)


def _reordered(order: Sequence[str], expected: Sequence[str]) -> list[str]:
    """A line when classes come in another order here than is expected."""
    here = set(order)
    there = [name for name in map(plain, expected) if name in here]
    ours = [name for name in order if name in set(there)]
    if ours == there:
        return []
    return [
        f"classes are known in another order ({_some(there)}) than that of their names here ({_some(ours)}): "
        "labels follow the names"
    ]


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")
