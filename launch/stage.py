"""Copies a dataset to a node's own disk: many files at a time, resumable, once per node.

    srun --ntasks-per-node=1 python launch/stage.py /shared/imagenet /local/nvme/imagenet

A file is copied under a temporary name and renamed when it is whole, so that a copy that was interrupted goes on where
it stopped, and jobs that share the node and the folder wait for one another instead of copying twice. The folder then holds
that dataset and nothing else: whatever lay in it besides would be trained too.
"""

import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

COPIES_AT_A_TIME = 8
RECORD = ".staging"  # in the target: of which source it holds which files; locked while somebody copies


class StageError(ValueError):
    """What cannot be copied, or to where; the message is one line."""


def stage(source: Path, target: Path) -> tuple[int, int]:
    """Makes `target` hold the files of `source`, those that were copied before and are gone at the source taken away; returns
    how many were copied and their bytes.

    Raises StageError when the source is not there, or the target has no room or holds what is not of this source.
    """
    if not source.is_dir():
        raise StageError(f"{source} is no directory on {socket.gethostname()}")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with (target / RECORD).open("a+") as record:
            fcntl.flock(record, fcntl.LOCK_EX)
            files = _files(source)
            _take_away_what_is_gone(source, target, files, record)
            missing = [name for name in files if not _same(source / name, target / name)]
            need, free = sum((source / name).stat().st_size for name in missing), shutil.disk_usage(target).free
            if need > free:
                raise StageError(
                    f"{target} on {socket.gethostname()} has room for {free:,} bytes, {need:,} are missing"
                )
            # Before the copying, so that an interrupted copy is known as ours.
            _write_record(record, source, files)
            with ThreadPoolExecutor(COPIES_AT_A_TIME) as pool:
                for _ in pool.map(lambda name: _copy(source / name, target / name), missing):
                    pass
    except OSError as error:
        raise StageError(f"{error.filename or target} on {socket.gethostname()}: {error.strerror}") from None
    return len(missing), need


def _files(folder: Path) -> list[str]:
    """Names of the files below `folder`, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _take_away_what_is_gone(source: Path, target: Path, files: list[str], record: TextIO) -> None:
    """Removes copies whose originals are gone. Raises StageError for files in `target` that are no copies from `source`."""
    record.seek(0)
    text = record.read()
    before = json.loads(text) if text else {"source": None, "files": []}
    if before["source"] not in (None, str(source.resolve())):
        raise StageError(
            f"{target} on {socket.gethostname()} holds {before['source']}, not {source}: name another folder"
        )
    known = {*files, *before["files"]}
    # Names that begin with a dot are indexes, locks and unfinished copies, none of which is trained.
    foreign = [name for name in _files(target) if name not in known and not any(p[0] == "." for p in Path(name).parts)]
    if foreign:
        raise StageError(
            f"{target} on {socket.gethostname()} holds {len(foreign)} files that {source} does not have, such as "
            f"{foreign[0]}: they would be trained too; name an empty folder"
        )
    gone = set(before["files"]) - set(files)
    for name in gone:
        (target / name).unlink(missing_ok=True)
    for folder in sorted({target / parent for name in gone for parent in Path(name).parents} - {target}, reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _write_record(record: TextIO, source: Path, files: list[str]) -> None:
    record.seek(0)
    record.truncate()
    json.dump({"source": str(source.resolve()), "files": files}, record)
    record.flush()


def _same(source: Path, target: Path) -> bool:
    """Whether the copy is there and whole: the name appears with the last byte, size and time tell a changed source."""
    if not target.is_file():
        return False
    ours, theirs = target.stat(), source.stat()
    return ours.st_size == theirs.st_size and int(ours.st_mtime) == int(theirs.st_mtime)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    shutil.copy2(source, temporary)
    temporary.replace(target)


def main(arguments: Sequence[str]) -> int:
    """`SOURCE TARGET`; exit status 2 for what cannot be copied."""
    if len(arguments) != 2 or not all(arguments):
        print("error: launch/stage.py SOURCE TARGET", file=sys.stderr)
        return 2
    started = time.monotonic()
    try:
        files, size = stage(Path(arguments[0]), Path(arguments[1]))
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seconds = time.monotonic() - started
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    print(f"{node}: copied {files} files, {size / 2**30:.1f} GiB, to {arguments[1]} in {seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
