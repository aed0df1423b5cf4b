"""A core for a test's trainings: of all tests that run on this machine just now, the one that fewest have."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """Within it, this process and those that it starts have one core: trainings of two threads beside other work wait for one
    another at every operation, which takes ten times the processors' time."""
    cores = sorted(os.sched_getaffinity(0))
    with _first_free_place() as place:
        os.sched_setaffinity(0, {cores[place % len(cores)]})
        try:
            yield
        finally:
            os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def _first_free_place() -> Iterator[int]:
    """The lowest number that no other process has, which it has until the end."""
    folder = Path(tempfile.gettempdir(), f"inception-tests-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    for place in itertools.count():
        with (folder / f"core-{place}").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            try:
                yield place
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # which processes that still run have inherited
            return
