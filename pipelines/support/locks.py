"""A lock that one process of a machine holds while the others wait, without any process group or timeout."""

import errno
import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MOST_ATTEMPTS = 1000  # to take a file that others remove


@contextmanager
def machine_lock(file: Path, announce: bool) -> Iterator[bool]:
    """Hold the lock `file`; yields whether another process held it first. The system frees it when its holder dies.

    On a shared file system that supports locks only one process of the whole cluster holds it; where it does not, a
    lock in this machine's temporary directory stands in. Whoever holds the lock may remove its file: those who wait take
    the next one.
    """
    descriptor, waited = _acquire(file, announce)
    try:
        yield waited
    finally:
        os.close(descriptor)


def _acquire(file: Path, announce: bool) -> tuple[int, bool]:
    stand_in = Path(tempfile.gettempdir()) / f"inception-{hashlib.sha256(os.fsencode(file)).hexdigest()[:16]}.lock"
    waited = False
    for path, last in ((file, False), (stand_in, True)):
        for attempt in range(_MOST_ATTEMPTS):
            descriptor = -1
            try:
                descriptor = _opened(path)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if announce and not waited:
                        print(f"waiting for another process to finish {file.stem}", file=sys.stderr, flush=True)
                    waited = True
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_still(path, descriptor):
                    return descriptor, waited
                os.close(descriptor)
            except OSError as error:
                removed = isinstance(error, FileNotFoundError)  # it, or its folder, that moment
                if removed and attempt + 1 < _MOST_ATTEMPTS:
                    continue
                if descriptor >= 0:
                    os.close(descriptor)
                if last:
                    raise
                break
    raise OSError(errno.EAGAIN, "its lock is removed again and again", str(file))


def _opened(path: Path) -> int:
    """The lock file, made if it is not there; another user's is opened for reading, which is enough to lock it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file was not removed while it was waited for."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
