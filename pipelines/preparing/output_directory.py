"""What a preparation leaves in its output directory, and the guard against mixing two of them in one place."""

import json
import os
from pathlib import Path

from pipelines.datasets.files import is_folder, is_there
from pipelines.support.errors import DataError

MANIFEST, CHECKSUMS, WORK, JOB = "manifest.json", "checksums.xxh128", ".prepare", "job.json"


def claim(output: Path, job: dict) -> bool:
    """Whether the output holds this job's finished result; DataError when it holds anything that is not this job's."""
    if not is_there(output):
        return False
    if not is_folder(output):
        raise DataError(f"output {output} is a file; choose a directory")
    for file, finished in ((output / MANIFEST, True), (output / WORK / JOB, False)):
        if is_there(file):
            try:
                found = json.loads(file.read_text())
                found = found["job"] if finished else found
            except (IsADirectoryError, ValueError, KeyError, TypeError):
                raise DataError(
                    f"output {output} holds something else ({file.name}); choose an empty directory"
                ) from None
            _check_same(found, job, output)
            return finished
    foreign = sorted(entry.name for entry in output.iterdir() if entry.name != WORK)
    if foreign:
        raise DataError(f"output {output} holds something else ({foreign[0]}); choose an empty directory")
    return False


def _check_same(found: dict, job: dict, output: Path) -> None:
    found = {"store": "jpeg", **found}  # of a preparation from before there were others
    differing = [name for name in job if found.get(name) != job[name]]
    if not differing:
        return
    name = differing[0]
    what = "other or changed input" if name == "input" else f"{name} {found.get(name)}, not {job[name]}"
    raise DataError(f"output {output} holds a preparation of {what}; remove it, or choose another directory")


def write_whole(file: Path, text: str) -> None:
    """Write a file that is there wholly or not at all, after a power failure too."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(file)
