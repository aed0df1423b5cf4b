"""A lock that one process of a machine holds while the others wait, without any process group or timeout."""

import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def machine_lock(file: Path, announce: bool) -> Iterator[bool]:
    """Hold the lock `file`; yields whether another process held it first. The system frees it when its holder dies.

    On a shared file system that supports locks only one process of the whole cluster holds it; where it does not, a
    lock in this machine's temporary directory stands in.
    """
    descriptor, waited = _acquire(file, announce)
    try:
        yield waited
    finally:
        os.close(descriptor)


def _acquire(file: Path, announce: bool) -> tuple[int, bool]:
    stand_in = Path(tempfile.gettempdir()) / f"inception-{hashlib.sha256(os.fsencode(file)).hexdigest()[:16]}.lock"
    for path, last in ((file, False), (stand_in, True)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor, False
        except BlockingIOError:
            if announce:
                print(f"waiting for another process to finish {file.stem}", file=sys.stderr, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return descriptor, True
        except OSError:
            os.close(descriptor)
            if last:
                raise
    raise AssertionError("unreachable")
