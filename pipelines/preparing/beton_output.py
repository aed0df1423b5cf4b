"""The last step of a preparation to `.beton`: from checked shards to one file a split, compared sample by sample.

By way of shards, because FFCV's format wants to know every size beforehand, and images that are encoded again, or read
in a shuffled order from archives, only show theirs when they have been written once.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.datasets.beton import classes_file
from pipelines.datasets.dataset import Dataset, open_dataset
from pipelines.datasets.image_headers import SLOW
from pipelines.preparing.beton_writer import write_beton
from pipelines.preparing.writers import File, Piece, digested
from pipelines.support.progress import progress_bar
from pipelines.support.work_sharing import Team

_COMPARED_TOGETHER = 256  # samples a task
_BUFFER = 1 << 22
QUARANTINE = "unreadable-{split}.txt"

Opener = Callable[[], Dataset]


def make_betons(shards: Path, splits: list[str], pieces: Iterable[Piece], output: Path, team: Team) -> list[File]:
    """Write OUTPUT/<split>.beton, with the class names beside it, from the shards of each split.

    Labels of every split are positions in the first one's classes. Images that no decoder can read are left out: FFCV's
    format has no place for them. OSError when a file cannot be read back as written.
    """
    files = []
    pieces = list(pieces)
    classes = open_dataset(shards, splits[0]).classes
    for split in splits:
        opener = partial(open_dataset, shards, split, classes=classes, quarantine=_unreadable(shards, split, pieces))
        beton = output / f"{split}.beton"
        with progress_bar(f"Writing {beton.name}", 1) as advance:
            write_beton(opener, beton, team)
            advance(1)
        _compare(opener, output, split, classes, team)
        files += [file for _, file in team.run(_digested, [beton, classes_file(beton)])]
    return sorted(files)


def _unreadable(shards: Path, split: str, pieces: list[Piece]) -> Path | None:
    names = [f"{piece.files[0].name}:{name}" for piece in pieces if piece.split == split for name in piece.unreadable]
    if not names:
        return None
    file = shards / QUARANTINE.format(split=split)
    file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", errors="surrogateescape")
    return file


def _compare(opener: Opener, output: Path, split: str, classes: tuple[str, ...], team: Team) -> None:
    written = partial(open_dataset, output, split, classes=classes, progress=False)
    count = len(opener())
    if len(open_dataset(output, split, classes=classes)) != count:
        raise OSError(f"{output / split}.beton does not hold the {count} images that were written")
    starts = range(0, count, _COMPARED_TOGETHER)
    tasks = [(opener, written, start, min(start + _COMPARED_TOGETHER, count)) for start in starts]
    with progress_bar(f"Checking {split}.beton", count, "images") as advance:
        for number, wrong in team.run(_differing, tasks):
            if wrong is not None:
                raise OSError(f"{wrong} in {output / split}.beton is not what was written: the disk may be failing")
            advance(tasks[number][3] - tasks[number][2])


def _differing(task: tuple[Opener, Opener, int, int]) -> str | None:
    """The first sample of a range whose label, bytes or pixels differ between two datasets."""
    opener, written, start, stop = task
    first, second = opener(), written()
    positions = np.arange(start, stop)
    same = first.labels(positions) == second.labels(positions)
    as_pixels = (first.flags(positions)[0] & SLOW) != 0
    for number, position in enumerate(positions.tolist()):
        one, other = first.read(position), second.read(position)
        if as_pixels[number]:
            from pipelines.decoding.decode import decode  # brings torch, which copies do without

            one, other = decode(one).numpy(), decode(other).numpy()
        if not (same[number] and np.array_equal(one, other)):
            return first.short_name(position)
    return None


def _digested(path: Path) -> File:
    return digested(path, memoryview(bytearray(_BUFFER)))
