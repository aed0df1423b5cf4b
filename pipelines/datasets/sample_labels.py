"""A WebDataset sample: files of a tar that share a key, which of them are its images, and what the others say of its class."""

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pipelines.datasets.image_names import IMAGES, suffix
from pipelines.datasets.passed_over import PassedOver
from pipelines.datasets.several_labels import of_fields
from pipelines.datasets.tar_files import File
from pipelines.support.errors import DataError

_CLASSES = ("cls", "class", "label")  # what files with a class, and nothing else, are called
# Fields of a .json that hold a class, as number or name, in the order in which they are asked.
_NUMBERS = ("label", "cls", "class_id", "class_index", "category_id", "target", "class")
_NAMES = ("class_name", "label_name", "category_name", "class", "label", "cls", "category", "synset", "wnid")
_IMAGE_FIELDS = ("image", "img", "input", "rgb", "photo")
_LONGEST = 4096  # bytes of a class


class Parts(NamedTuple):
    """The files of one key: its images, those that tell its class, and all others."""

    images: list[File]
    labels: list[File]
    others: list[File]


def key_of(path: str) -> tuple[str, str]:
    """WebDataset's split of a file's name: up to the first dot of its last part, and what follows it, in lower case."""
    folder, slash, file = path.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def parts_of(files: Sequence[File]) -> Parts:
    """Sorts the files of one key.

    `a.jpg` beside `a.mask.png` is an image with an extra; `a.1.jpg` and `a.2.jpg` are two images whose names hold a dot;
    `a.jpg` and `a.png` are two where nothing else tells a class, as in a folder of files that was packed, else the first
    is the sample's.
    """
    labels = [file for file in files if suffix(file.path) in (*_CLASSES, "json")]
    pictures = [file for file in files if suffix(file.path) in IMAGES]
    plain = [file for file in pictures if key_of(file.path)[1] in IMAGES]
    named = [file for file in pictures if key_of(file.path)[1].split(".")[0] in _IMAGE_FIELDS]
    images = (plain[:1] if labels else plain) or named[:1] or pictures
    kept = {file.name for file in (*labels, *images)}
    return Parts(images, labels, [file for file in files if file.name not in kept])


def paired(parts: Parts) -> Iterator[tuple[File, list[File]]]:
    """Each image with the files that may tell its class: of several images of a key those of its own name (`a.1.cls` beside
    `a.1.jpg`), else those of no image's name."""
    of: dict[str, list[File]] = {_stem(image.path): [] for image in parts.images}
    shared: list[File] = []
    for file in parts.labels:
        of.get(_stem(file.path), shared).append(file)
    for image in parts.images:
        yield image, parts.labels if len(parts.images) == 1 else of[_stem(image.path)] or shared


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


def label_of(image: File, labels: Sequence[File], descriptor: int, passed_over: PassedOver) -> str:
    """The image's label, as `class_names` takes them: from a file of its class, a .json, or the folders of its name.

    A .json that says another number than the file of its class is counted in `passed_over`. DataError, without the archive's
    name, when there is no label, or more than one, or it cannot be read; OSError when the archive cannot.
    """
    classes = {_text(file, descriptor): file for file in labels if suffix(file.path) in _CLASSES}
    if len(classes) > 1:
        (one, first), (other, second), *_ = classes.items()
        raise DataError(
            f"{image.name} has two classes: {first.name} says {one!r} and {second.name} {other!r}; keep one"
        )
    number, name = "", ""
    text = next(iter(classes), "")
    if not text or text.isdecimal():  # a name says all
        for file in labels:
            if suffix(file.path) == "json":
                number, name = _from_json(file, descriptor)
                if text and number and int(number) != int(text):
                    passed_over.add(".json with another class", file.name)
                    name = ""
    number = text or number
    if number or name:
        return f"{number}\t{name}" if number and name and _is_number(number) else number or name
    for file in labels if not text else ():
        if suffix(file.path) == "json" and (several := of_fields(_fields(file, descriptor), file.name)):
            return several
    path = os.path.normpath(os.path.dirname(image.path))  # noqa: PTH120
    folders = [part for part in path.split("/") if part not in ("", ".", "..")]
    if folders:
        return "/".join(folders) + "/"
    raise DataError(
        f"{image.name} has no class: expected a .cls beside it, a .json with a label or a list of labels, or a class folder in "
        "its name"
    )


def _single(value: object) -> object:
    """What a list of one holds; all else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _is_whole(value: object) -> bool:
    """Of a float that stands for a class's number."""
    return isinstance(value, float) and value.is_integer()


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _text(file: File, descriptor: int) -> str:
    if file.size <= _LONGEST:
        data = os.pread(descriptor, file.size, file.place)
        text = data.decode("utf-8-sig", "surrogateescape").strip(" \r\n\t\0")
        # A name need not be UTF-8: bytes that are not are kept as surrogates, which count as not printable.
        letters = "".join(letter for letter in text if not "\udc80" <= letter <= "\udcff")
        if letters and letters.isprintable() and text[-1] != "/":
            return text
    raise DataError(f"{file.name} is no class: expected one line of text")


def _from_json(file: File, descriptor: int) -> tuple[str, str]:
    """A class's number and name in a .json; empty where it has none."""
    fields = {name: _single(value) for name, value in _fields(file, descriptor).items()}
    texts = (f"{fields[field]:.0f}" if _is_whole(fields.get(field)) else str(fields.get(field)) for field in _NUMBERS)
    numbers = (text for text in texts if _is_number(text))
    names = (value.strip() for value in map(fields.get, _NAMES) if isinstance(value, str))
    return next(numbers, ""), next((name for name in names if name and not _is_number(name)), "")


def _fields(file: File, descriptor: int) -> dict[str, Any]:
    """What a .json says, by its fields in lower case; of one that is no object, the class alone."""
    try:
        found = json.loads(os.pread(descriptor, file.size, file.place))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.name} is damaged: {error}") from None
    lone = _single(found)
    return {name.lower(): value for name, value in (lone if isinstance(lone, dict) else {"label": found}).items()}
