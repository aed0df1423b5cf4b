"""Names of many files in one: {0000..1023}, {a,b} and the wildcards of a shell; and which of a row of numbers are missing."""

import fnmatch
import os
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from pipelines.datasets.files import is_folder, mode_of
from pipelines.support.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_WILDCARD = re.compile(r"[*?\[]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000  # files that one pattern may name


def is_pattern(text: str) -> bool:
    """Whether a name stands for several."""
    return bool(re.search(r"[*?\[]|\{[^{}]*(,|\.\.)[^{}]*\}", text))


def expanded(pattern: Path) -> list[Path]:
    """The files that an absolute pattern names, in its order, those of a wildcard sorted; DataError when one is not there,
    OSError when a folder on the way cannot be listed."""
    names = _without_braces(str(pattern))
    files: list[Path] = []
    missing = []
    for name in names:
        found = _matching(Path(name)) if _WILDCARD.search(name) else [Path(name)]
        files += found
        if not found or not mode_of(found[0]):
            missing.append(name)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"no file {missing[0]}{more}, of the {len(names)} that the pattern {pattern} names")
    return list(dict.fromkeys(files))


def _matching(pattern: Path) -> list[Path]:
    """What a pattern with wildcards names, sorted. Python's glob would pass over a folder that cannot be listed."""
    found = [Path(pattern.anchor)]
    for part in pattern.parts[1:]:
        if not _WILDCARD.search(part):
            found = [place for folder in found if mode_of(place := folder / part, links=True)]
            continue
        found = [
            folder / name
            for folder in filter(is_folder, found)
            for name in fnmatch.filter(os.listdir(folder), part)  # noqa: PTH208
            if part.startswith(".") or not name.startswith(".")
        ]
    return sorted(found)


def _without_braces(text: str) -> list[str]:
    pieces = _BRACES.split(text)  # text and what stands in braces, in turns
    choices = [[piece] if number % 2 == 0 else _choices(piece) for number, piece in enumerate(pieces)]
    total = 1
    for choice in choices:
        total *= len(choice)
    if total > _MOST:
        raise DataError(f"the pattern {text} names {total:,} files; at most {_MOST:,} can be used")
    return ["".join(parts) for parts in product(*choices)]


def _choices(inside: str) -> list[str]:
    if found := _RANGE.fullmatch(inside):
        first, last = int(found[1]), int(found[2])
        width = len(found[1]) if found[1].startswith("0") else 0
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        if len(numbers) > _MOST:
            raise DataError(f"{{{inside}}} names {len(numbers):,} files; at most {_MOST:,} can be used")
        return [f"{number:0{width}}" for number in numbers]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


def missing_numbers(names: Sequence[str]) -> list[str]:
    """Names that a row of numbered ones lacks between its first and its last, by the number that varies last in them."""
    split = [re.split(r"(\d+)", name) for name in names]
    varying = [place for place in range(1, len(split[0]), 2) if len({tuple(parts)[place] for parts in split}) > 1]
    if len(varying) != 1 or len({len(parts) for parts in split}) > 1:
        return []
    place, parts = varying[0], split[0]
    there = {int(other[place]) for other in split}
    width = min(len(other[place]) for other in split)
    gaps = sorted(set(range(min(there), max(there))) - there)[: 10 * len(names)]
    return ["".join([*parts[:place], f"{number:0{width}}", *parts[place + 1 :]]) for number in gaps]
