"""The forms that a dataset may have, and how they are recognised: class folders, tar shards, FFCV's files, lists."""

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipelines.datasets.beton import Beton
from pipelines.datasets.files import is_folder, is_there, mode_of
from pipelines.datasets.folders import Folders, class_folders
from pipelines.datasets.image_names import INDEX, is_image, kind_of, left_behind
from pipelines.datasets.lists import ENDINGS as LIST_ENDINGS
from pipelines.datasets.lists import Listed, find_list, list_names
from pipelines.datasets.passed_over import PassedOver
from pipelines.datasets.patterns import expanded, is_pattern, missing_numbers
from pipelines.datasets.shards import Shards
from pipelines.datasets.source import Source
from pipelines.support.errors import DataError, nearest

SPLITS = ("train", "val")
HELD_OUT = 0.1  # share of each class that is the val split where a dataset has no splits, unless another is asked for
# What a split may be called, the first that is there.
_CALLED = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test", "testing")}
_BETONS = (".beton", ".ffcv")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
# Where Kaggle's archive of ImageNet has its splits.
_KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
# What preparation and indexing leave beside the data.
_OURS = re.compile(r"manifest\.json|checksums\.xxh128|.*\.(beton|ffcv)\.json|readme\.md|license(\.\w+)?", re.IGNORECASE)


class NoSplit(DataError):
    """A dataset lacks a split."""


def find_source(path: Path, split: str, held_out: float = HELD_OUT) -> Source:
    """The source of a split ("train" or "val") of the dataset in a folder; DataError when there is none, or more than one.

    held_out: the share of each class that is the val split where there are no splits. docs/data.md has the table of forms.
    """
    try:
        if not is_there(path):
            pattern = f"; a pattern of a split's files is --data.{split}" if is_pattern(path.name) else ""
            raise DataError(f"data directory {path} does not exist{pattern}")
        if not is_folder(path):
            raise DataError(
                f"{path} is no directory; give the one that holds '{split}' (class folders, tar shards, FFCV's files or a "
                f"list), or the split itself by --data.{split}"
            )
        return _found(path, split, held_out)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror}") from None


def splits_in(path: Path, held_out: float = HELD_OUT) -> list[str]:
    """Which of "train" and "val" a dataset has; DataError when it has neither, or one of them makes no sense."""
    found, reason = [], ""
    for split in SPLITS:
        try:
            find_source(path, split, held_out)
            found.append(split)
        except NoSplit as error:
            reason = reason or str(error)
    if not found:
        raise DataError(f"{path} holds neither a train nor a val split: {reason}")
    return found


def source_at(where: str, split: str) -> Source:
    """The source of a split that `where` names itself: a folder of class folders or shards, a shard, a pattern of shards
    ("imagenet-train-{0000..1023}.tar", "*.tar"), an FFCV file, or a list of paths and labels."""
    path = Path(where).expanduser().absolute()
    try:
        there = is_there(path)
        if is_pattern(where) and not there:
            return _of_pattern(path, split)
        if not there:
            raise DataError(f"{path} does not exist")
        if is_folder(path):
            return _of_folder(path, split, path.name, path.parent)
        return _of_file(path, split)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror}") from None


def _found(path: Path, split: str, held_out: float) -> Source:
    names = sorted(os.listdir(path))  # noqa: PTH208  # names are all that is wanted
    top = next((path / below for below in _KAGGLE if is_folder(path / below)), path)
    names = names if top == path else sorted(os.listdir(top))  # noqa: PTH208
    for called in _CALLED[split]:
        forms = _forms(top, names, called, split)
        if len(forms) > 1:
            raise DataError(
                f"{top} holds the '{called}' split more than once ({' and '.join(forms)}); keep one of them"
            )
        for make in forms.values():
            source = make()
            if called != split:
                source.remarks.append(f"the {split} split is what {top} calls '{called}'")
            if split == "train" or not _is_held(top, names, "train"):
                source.passed_over.join(_beside(top, names))
            return source
    without = ""
    if not any(_is_held(top, names, split) for split in SPLITS):
        classes, passed_over = class_folders(top)
        whole = Folders(top, split, classes, held_out)
        whole.passed_over = passed_over
        empty = [name for name in classes if not whole.holds_images(name)]
        if len(classes) > 1 and not empty:
            whole.remarks.append(
                f"{top} has no splits: {100 * held_out:g}% of each class, chosen by the images' names, are the val split"
            )
            return whole
        if len(classes) - len(empty) > 1:
            without = f"; were its folders classes, each would hold images, and {empty[0]} holds none"
    visible = [name for name in names if not name.startswith(".")]
    packed = next((name for name in visible if name.lower().endswith(_COMPRESSED)), "")
    dangling = next((name for name in visible if name.lower() in _CALLED[split] and not mode_of(top / name)), "")
    expected = ", ".join(f"{split}{form}" for form in ("/<class>/*.jpg", "/*.tar", "-*.tar", ".beton"))
    raise NoSplit(
        f"no '{split}' split in {top}: expected {expected} or {split}.csv"
        + (
            without
            if without
            else f"; {dangling} is a link that leads nowhere"
            if dangling
            else f"; {packed} is compressed: unpack it"
            if packed
            else nearest(split, visible)
            if visible
            else "; the directory is empty"
        )
    )


def _is_held(top: Path, names: list[str], split: str) -> bool:
    """Whether a folder holds a split, in any form."""
    return any(_forms(top, names, called, split) for called in _CALLED[split])


def _forms(top: Path, names: list[str], called: str, split: str) -> dict[str, Callable[[], Source]]:
    """What makes a source of each form in which a folder holds the split of that name."""
    forms: dict[str, Callable[[], Source]] = {}
    folders = [name for name in names if name.lower() == called and is_folder(top / name)]
    shards = [name for name in names if _is_of(name, called, (".tar",))]
    for name in names:
        if _is_of(name, called, _BETONS):
            forms[name] = partial(Beton, top / name, split)
    if shards:
        forms[f"{called}-*.tar"] = partial(_of_shards, top, split, shards, f"--data.{split}")
    forms |= {f"{name}/": partial(_of_folder, top / name, split, called, top) for name in folders}
    if not forms:
        forms |= {name: partial(Listed, top / name, split) for name in names if name.lower() in list_names(called)}
    return forms


def _is_of(name: str, called: str, endings: tuple[str, ...]) -> bool:
    """Whether a file's name holds a split's name as a word: "imagenet1k-train-0000.tar", "train_500_0.50_90.ffcv"."""
    lower = name.lower()
    ending = next((ending for ending in endings if lower.endswith(ending)), None)
    return ending is not None and bool(re.fullmatch(rf"(.*[^a-z0-9])?{called}([^a-z].*)?", lower.removesuffix(ending)))


def _of_shards(root: Path, split: str, names: list[str], option: str) -> Shards:
    """Shards of one set, with a remark when their numbers have gaps."""
    sets = sorted({re.sub(r"\d+", "*", name) for name in names})
    if len(sets) > 1:
        raise DataError(
            f"{root} holds several sets of shards ({', '.join(sets[:3])}); choose one: {option} '{root / sets[0]}'"
        )
    source = Shards(root, split, sorted(names))
    if missing := missing_numbers(names):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        source.remarks.append(f"the shards' numbers have gaps: {missing[0]}{more} is not there")
    return source


def _of_folder(folder: Path, split: str, called: str, top: Path) -> Source:
    """Of a folder that is a split."""
    names = sorted(os.listdir(folder))  # noqa: PTH208
    shards = [name for name in names if name.lower().endswith(".tar") and not left_behind(name)]
    classes, passed_over = class_folders(folder)
    if shards:
        if any(is_image(name) for name in names):
            raise DataError(f"{folder} holds tar shards and images; keep one of them")
        if packed := list(filter(Folders(folder, split, classes).holds_images, classes)):
            raise DataError(f"{folder} holds tar shards and class folders of images ({packed[0]}); keep one of them")
        source: Source = _of_shards(folder, split, shards, f"--data.{split}")
        source.passed_over.join(_but(passed_over, ".tar"))
        for name in classes:
            source.passed_over.add("folder beside the shards", name)
        return source
    flat = any(is_image(name) and not left_behind(name) for name in names)
    if (not classes or [name.lower() for name in classes] == ["images"] or flat) and (
        file := find_list(folder, top, called, split)
    ):
        return Listed(file, split, [folder, *(folder / name for name in classes)], folder)
    if classes:
        source = Folders(folder, split, classes)
        source.passed_over = passed_over
        return source
    raise DataError(
        f"{folder} holds images, but no class folders and no list of their labels ({called}.csv: path,label)"
        if flat
        else f"{folder} holds no class folders and no tar shards; expected {called}/<class>/*.jpg"
    )


def _but(passed_over: PassedOver, kind: str) -> PassedOver:
    return PassedOver({what: found for what, found in passed_over.items() if what != kind})


def _of_file(file: Path, split: str) -> Source:
    ending = file.suffix.lower()
    if ending == ".tar":
        return Shards(file.parent, split, [file.name])
    if ending in _BETONS:
        return Beton(file, split)
    if ending in LIST_ENDINGS:
        return Listed(file, split)
    raise DataError(f"{file} is no dataset: expected a .tar, a .beton or .ffcv, a list (.csv, .tsv, .txt), or a folder")


def _of_pattern(pattern: Path, split: str) -> Source:
    files = expanded(pattern)
    if len(files) == 1:
        return _of_file(files[0], split)
    others = [file for file in files if file.suffix.lower() != ".tar"]
    if others:
        raise DataError(f"{pattern} names {others[0].name}, which is no tar shard; only of shards there may be several")
    root = Path(os.path.commonpath([file.parent for file in files]))
    return Shards(root, split, [str(file.relative_to(root)) for file in files])


def _beside(top: Path, names: list[str]) -> PassedOver:
    """What lies beside the splits and belongs to none of them."""
    found, used, lists, folder = PassedOver(), [], set(), "folder beside the splits"
    for split in SPLITS:
        for called in _CALLED[split]:
            if forms := _forms(top, names, called, split):
                used.append(called)
                with suppress(DataError):  # said when that split is opened
                    source = next(iter(forms.values()))()
                    if isinstance(source, Listed):
                        lists |= {source.list_file, *source.bases}
                        folder = folder if source.folder else "folder of which only what is listed is used"
                break
    for name in names:
        if name == INDEX or _OURS.fullmatch(name) or top / name in lists:
            continue
        if not any(name.lower() == called or _is_of(name, called, (".tar", *_BETONS)) for called in used):
            found.add(_called(top / name, folder), name)
    return found


def _called(path: Path, folder: str) -> str:
    """What something beside the splits is; folder: what a folder there is called."""
    if left_behind(path.name):
        return kind_of(path.name)
    try:
        if is_folder(path):
            return folder
        if not mode_of(path):
            return "link to nothing"
    except OSError as error:
        if error.errno != errno.ELOOP or not path.is_symlink():
            raise
        return "link to itself"
    return "image in no split" if is_image(path.name) else kind_of(path.name)
