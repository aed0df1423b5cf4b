"""Images with several labels, or none: how samples carry them, and the combinations of classes that labels stand for.

Such a label is one text like any other, so that an index holds it: its names, each after a mark that no name holds. What a
dataset calls the label of an image is then the number of its combination, and a table says which classes each one holds.
"""

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.support.errors import DataError

_MARK = "\x1f"  # ASCII's unit separator
_FIELDS = ("labels", "tags", "classes", "categories", "label", "cls", "class", "category", "target")
COLUMNS = ("labels", "tags", "classes", "categories", "finding labels")
_SEPARATORS = re.compile(r"[|;]")
_LARGEST = 2**30  # bytes of a table


def joined(items: Iterable[Any], where: str) -> str:
    """The label of an image with these classes, names or numbers. DataError, beginning with `where`, for other items, and for
    one that comes twice: then it may be a number for each class, and none says which."""
    names = []
    for item in items:
        whole = isinstance(item, float) and item.is_integer()
        if isinstance(item, bool) or not (whole or isinstance(item, int | str)) or not str(item).strip():
            raise DataError(f"{where} has {item!r} among several labels, which are names or numbers of classes")
        names.append(f"{item:.0f}" if whole else str(item).strip())
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where} has the label {twice!r} twice; expected the names or numbers of its classes")
    return _MARK + _MARK.join(sorted(names))


def of_fields(fields: Mapping[str, Any], where: str) -> str:
    """The label in the fields of a .json that hold a list; empty where none does."""
    lists = (fields[name] for name in _FIELDS if isinstance(fields.get(name), list))
    found = next(lists, None)
    return "" if found is None else joined(found, where)


def of_cell(cell: str, where: str) -> str:
    """The label in a list's cell: names between | or ;, or a list as JSON or Python has it."""
    if not cell.startswith("["):
        return joined(filter(None, (name.strip() for name in _SEPARATORS.split(cell))), where)
    try:
        try:
            items = json.loads(cell)
        except ValueError:
            items = ast.literal_eval(cell)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where}: {cell:.80} is no list of labels: {reason}") from None
    return joined(items, where)


def are_several(cells: Iterable[str]) -> bool:
    """Whether the cells of a column that is called so hold several labels each."""
    return any(_SEPARATORS.search(cell) or cell.startswith("[") for cell in cells)


def of_flags(cells: Sequence[str], names: Sequence[str], where: str) -> str:
    """The label of an image whose cells say 0 or 1 of each class in `names`."""
    held = []
    for cell, name in zip(cells, names, strict=False):
        if cell.strip() not in _FLAGS:
            raise DataError(f"{where}: expected 0 or 1 for class {name!r}, got {cell!r}")
        if _FLAGS[cell.strip()]:
            held.append(name)
    if len(cells) != len(names):
        raise DataError(f"{where}: expected a 0 or 1 for each of {len(names)} classes, got {len(cells)}")
    return joined(held, where)


_FLAGS = {"0": False, "0.0": False, "1": True, "1.0": True, "false": False, "true": True, "False": False, "True": True}


def are_flags(cells: Sequence[str]) -> bool:
    """Whether cells say of two or more classes whether an image has them."""
    return len(cells) > 1 and all(cell.strip() in _FLAGS for cell in cells)


def refuse(labels: Iterable[str], where: str, who: str) -> None:
    """DataError where any of `labels` stands for several classes, which `who` does not take."""
    if any(label.startswith(_MARK) for label in labels):
        raise DataError(
            f"{where} has several labels an image, which {who} does not take; engine/train.py --loss.name bce and "
            "engine/evaluate.py do"
        )


def items_of(labels: Sequence[str], where: str) -> list[str] | None:
    """The names or numbers of classes in labels of which some stand for several, each once; None where all stand for one."""
    if not any(label.startswith(_MARK) for label in labels):
        return None
    for label in labels:
        if not label.startswith(_MARK) and ("/" in label[-1:] or "\t" in label):
            one = label.partition("\t")[0]
            raise DataError(
                f"{where}: some samples have several labels and others a single one ({one!r}); give all of them a list"
            )
    items = list(dict.fromkeys(name for label in labels for name in _names(label)))
    if not items:
        raise DataError(f"{where}: no image has any label")
    return items


def table(labels: Sequence[str], class_of: Mapping[str, int], classes: int, where: str) -> NDArray[np.uint8]:
    """uint8 (labels, classes): 1 where a label holds a class; class_of: the number of each item."""
    if len(labels) * classes > _LARGEST:
        raise DataError(
            f"{where}: a table of {len(labels):,} combinations of {classes:,} classes would take more than "
            f"{_LARGEST >> 20} MiB; leave rare classes out"
        )
    found = np.zeros((len(labels), classes), np.uint8)
    for number, label in enumerate(labels):
        found[number, [class_of[name] for name in _names(label)]] = 1
    return found


def _names(label: str) -> list[str]:
    return [name for name in label.split(_MARK) if name]
