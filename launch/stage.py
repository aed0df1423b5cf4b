"""Copies a dataset to a node's own disk: many files at a time, resumable, once per node.

    srun --ntasks-per-node=1 python launch/stage.py /shared/imagenet /local/nvme/imagenet

A file is copied under a temporary name and renamed when it is whole, so that a copy that was interrupted goes on where
it stopped, and jobs that share the node and the folder wait for one another instead of copying twice.
"""

import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COPIES_AT_A_TIME = 8


class StageError(ValueError):
    """What cannot be copied, or to where; the message is one line."""


def stage(source: Path, target: Path) -> tuple[int, int]:
    """Makes `target` hold the files of `source`; returns how many were copied and their bytes.

    Raises StageError when the source is not there or the target has no room.
    """
    if not source.is_dir():
        raise StageError(f"{source} is no directory on {socket.gethostname()}")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with (target / ".staging").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            missing = [path for path in _files(source) if not _same(path, target / path.relative_to(source))]
            need, free = sum(path.stat().st_size for path in missing), shutil.disk_usage(target).free
            if need > free:
                raise StageError(
                    f"{target} on {socket.gethostname()} has room for {free:,} bytes, {need:,} are missing"
                )
            with ThreadPoolExecutor(COPIES_AT_A_TIME) as pool:
                for _ in pool.map(lambda path: _copy(path, target / path.relative_to(source)), missing):
                    pass
    except OSError as error:
        raise StageError(f"{error.filename or target} on {socket.gethostname()}: {error.strerror}") from None
    return len(missing), need


def _files(source: Path) -> list[Path]:
    return sorted(path for path in source.rglob("*") if path.is_file())


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
    if len(arguments) != 2:
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
