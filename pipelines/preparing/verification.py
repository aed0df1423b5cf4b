"""Compares the files of a prepared dataset with what was written."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.preparing import writers
from pipelines.preparing.output_directory import CHECKSUMS, MANIFEST
from pipelines.preparing.writers import File
from pipelines.support.errors import DataError
from pipelines.support.progress import progress_bar
from pipelines.support.work_sharing import Team

_CHECKED_TOGETHER = 256  # small files a task


def differing_files(team: Team, output: Path, files: Iterable[File], count: int) -> list[str]:
    """Which files are not what was written, read in parallel: large ones each by themselves; count: how many there are."""
    counts: list[int] = []

    def tasks() -> Iterator[tuple[Path, list[File]]]:
        batch: list[File] = []
        for file in files:
            batch.append(file)
            if len(batch) == _CHECKED_TOGETHER or file.size > writers.LARGE:
                counts.append(len(batch))
                yield output, batch
                batch = []
        counts.append(len(batch))
        yield output, batch

    with progress_bar("Checking", count) as advance:
        wrong: list[str] = []
        for position, names in team.run(writers.differing, tasks()):
            wrong += names
            advance(counts[position])
    return sorted(wrong)


def verified_manifest(output: Path, team: Team) -> dict:
    """The manifest of a finished output whose files have their checksums; DataError when one has not."""
    manifest = json.loads((output / MANIFEST).read_text())
    with (output / CHECKSUMS).open(encoding="utf-8", errors="surrogateescape") as file:
        lines = (line.rstrip("\n").split("  ", 1) for line in file)
        files = (File(name, size_of(output / name), digest) for digest, name in lines)
        wrong = differing_files(team, output, files, manifest["files"])
    if wrong:
        raise DataError(
            f"{output / wrong[0]}{and_more(wrong)} changed since it was prepared; remove {output} and prepare again"
        )
    return manifest


def size_of(path: Path) -> int:
    """In bytes; -1 for a file that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def and_more(names: list[str]) -> str:
    """How many names there are beside the first, for a message."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
