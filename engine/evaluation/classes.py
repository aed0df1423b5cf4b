"""Whose classes a network's outputs are, and which of them a dataset has: published weights know ImageNet's 1,000, datasets hold
some of them, by WordNet number or by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from engine.config.options import ConfigError
from inception.weights.published import imagenet_classes
from pipelines import DataError, Dataset
from pipelines.datasets.class_names import read_classes

BACKGROUND = "background"  # the first of TensorFlow's 1,001 outputs


def output_classes(file: str | None, known: Sequence[str] | None, outputs: int) -> tuple[list[str] | None, str]:
    """The names of a network's outputs, in order: of the `file` that is given, as its weights have `known`, ImageNet's where
    there are 1,000 or 1,001; and what had to be assumed, in words. None where nobody knows. Raises ConfigError for a file of
    another number of names, DataError for one that cannot be read."""
    if file:
        given = list(read_classes(Path(file).expanduser()))
        if len(given) != outputs:
            raise ConfigError(f"{file} names {len(given)} classes and the weights tell {outputs} apart")
        return given, ""
    if known is not None:
        return list(known), ""
    if outputs == 1000:
        return (
            imagenet_classes(),
            "1,000 outputs without names are taken for ImageNet's, in the order of their WordNet numbers",
        )
    if outputs == 1001:
        said = (
            "1,001 outputs without names are taken for background and ImageNet's, in the order of their WordNet numbers"
        )
        return [BACKGROUND, *imagenet_classes()], said
    return None, ""


def open_with(classes: Sequence[str] | None, open_split: Callable[..., Dataset]) -> tuple[Dataset, str]:
    """The dataset that `open_split(classes=...)` opens, whose labels are places among `classes`; where it calls them
    otherwise, by ImageNet's names for them, which the words then say. DataError for a class that is not among them."""
    try:
        return open_split(classes=classes), ""
    except DataError as error:
        if classes is None or not set(imagenet_classes()) & set(classes):
            raise
        own = open_split(classes=None).classes
        spelt = spellings(classes)
        places = {name: spelt.get(_simple(name), ()) for name in own}
        if any(len(found) != 1 for found in places.values()):
            several = [name for name, found in places.items() if len(found) > 1]
            if several:
                raise DataError(
                    f"{several[0]!r} is the name of more than one ImageNet class; name the folder by WordNet number"
                ) from None
            missing = [name for name, found in places.items() if not found]
            if len(missing) == len(own):
                raise error from None
            raise DataError(
                f"class {missing[0]!r} of the dataset is none of the {len(classes)} that the weights tell apart, neither by "
                "WordNet number nor by name"
            ) from None
    named = list(classes)
    for name, (place,) in places.items():
        named[place] = name
    first = own[0]
    return open_split(classes=named), f"classes are known by name: {first!r} is {classes[places[first][0]]}, and so on"


def spellings(classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The places of the classes that a name may mean, by the name in its simplest form: WordNet's words for each number."""
    from timm.data import ImageNetInfo  # slow to import

    info, numbers = ImageNetInfo(), set(imagenet_classes())
    found: dict[str, set[int]] = {}
    for place, name in enumerate(classes):
        words = [name]
        if name in numbers:
            words += [*info.label_name_to_description(name, detailed=False).split(",")]
        for word in words:
            found.setdefault(_simple(word), set()).add(place)
    return {name: tuple(sorted(places)) for name, places in found.items()}


def present(dataset: Dataset) -> np.ndarray:
    """int64 (n,): the classes that a dataset has images of."""
    return np.unique(dataset.labels(np.arange(len(dataset))))


def _simple(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
