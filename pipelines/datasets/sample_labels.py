"""A WebDataset sample: files of a tar that share a key, which of them are its images, and what the others say of its class."""

import json
import os
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.datasets.image_names import IMAGES, suffix
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


def label_of(parts: Parts, image: File, descriptor: int) -> str:
    """The image's label, as `class_names` takes them: from a file of its class, a .json, or the folders of its name.

    DataError, without the archive's name, when there is none or it cannot be read; OSError when the archive cannot.
    """
    classes = [_text(file, descriptor) for file in parts.labels if suffix(file.path) in _CLASSES]
    number, name = "", ""
    if not classes or classes[0].isdecimal():  # a name says all
        for file in parts.labels:
            if suffix(file.path) == "json":
                number, name = _from_json(file, descriptor)
    number = classes[0] if classes else number
    if number or name:
        return f"{number}\t{name}" if number and name and _is_number(number) else number or name
    path = os.path.normpath(os.path.dirname(image.path))  # noqa: PTH120
    folders = [part for part in path.split("/") if part not in ("", ".", "..")]
    if folders:
        return "/".join(folders) + "/"
    raise DataError(
        f"{image.name} has no class: expected a .cls beside it, a .json with a label, or a class folder in its name"
    )


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
    try:
        fields = json.loads(os.pread(descriptor, file.size, file.place))
    except ValueError as error:
        raise DataError(f"{file.name} is damaged: {error}") from None
    if not isinstance(fields, dict):
        return "", ""
    texts = (f"{fields[field]:.0f}" if _is_whole(fields.get(field)) else str(fields.get(field)) for field in _NUMBERS)
    numbers = (text for text in texts if _is_number(text))
    names = (fields[field].strip() for field in _NAMES if isinstance(fields.get(field), str))
    return next(numbers, ""), next((name for name in names if name and not _is_number(name)), "")
