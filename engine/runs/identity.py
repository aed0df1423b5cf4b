"""What a run trains, told by content: two datasets are the same when they hold the same images in the same order."""

import hashlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.config.options import Config
from inception import NetworkError
from inception.weights.fetching import path_of
from inception.weights.files import weights_of_run
from pipelines import Dataset

_AT_ONCE = 1 << 20  # samples


@dataclass(frozen=True)
class Identity:
    """train, val: digests of the splits; images, classes: of the training split; weights: digest of the file that the
    run started from, None for fresh ones; names: of the classes, in order; teacher: digest of the file of the network that
    this one learns from."""

    train: str
    val: str
    images: int
    classes: int
    weights: str | None
    names: list[str] = field(default_factory=list)
    teacher: str | None = None

    def statements(self) -> dict[str, str]:
        """What ranks compare, by what it is called."""
        return {
            "training split": f"{self.images} images of {self.classes} classes, digest {self.train}",
            "val split": f"digest {self.val}",
            "file of initial weights": str(self.weights),
            "file of the teacher": str(self.teacher),
        }

    def to_dict(self) -> dict[str, Any]:
        """As checkpoints and identity.json hold it."""
        return asdict(self)


def identify(config: Config, train: Dataset, val: Dataset) -> Identity:
    """What the run of `config` trains, on these splits."""
    named = (config.network.weights, config.distillation.teacher)
    weights, teacher = (os.fspath(path_of(name)) if name else None for name in named)
    for file in filter(None, (weights, teacher)):
        if not Path(file).exists():
            raise NetworkError(f"there is no weights file {file}")
    return Identity(
        dataset_digest(train),
        dataset_digest(val),
        len(train),
        len(train.classes),
        _file_digest(weights) if weights else None,
        list(train.classes),
        _file_digest(teacher) if teacher else None,
    )


def dataset_digest(dataset: Dataset) -> str:
    """Names the classes, and label, size in pixels and length in bytes of every sample in order; where the files lie, how they
    are stored and when they were written is left out."""
    digest = hashlib.sha256("\0".join(dataset.classes).encode("utf-8", "surrogateescape"))
    if dataset.combinations is not None:
        digest.update(dataset.combinations.tobytes())
    for start in range(0, len(dataset), _AT_ONCE):
        indices = np.arange(start, min(start + _AT_ONCE, len(dataset)))
        entries = dataset.entries(indices)
        for column in (dataset.labels(indices), entries["width"], entries["height"], entries["size"]):
            digest.update(column.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _file_digest(file: str) -> str | None:
    path = Path(file)
    with (weights_of_run(path) if path.is_dir() else path).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def data_differences(identity: Identity, saved: dict[str, Any]) -> list[str]:
    """In what the `saved` identity differs from this run's, in words; what an older file does not say is left out."""
    found = []
    if saved.get("classes", identity.classes) != identity.classes:
        found.append(f"{saved['classes']} classes, not {identity.classes}")
    if saved.get("images", identity.images) != identity.images:
        found.append(f"{saved['images']:,} training images, not {identity.images:,}")
    if not found and saved.get("train", identity.train) != identity.train:
        found.append("other training images (their sizes, labels, names of classes or order)")
    return found
