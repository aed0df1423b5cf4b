"""The places where indexes lie: beside the data, or in a cache; those that are complete, and the removal of one."""

import fcntl
import os
import shutil
import socket
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from pipelines.datasets.image_names import INDEX
from pipelines.support.cache import user_cache
from pipelines.support.errors import DataError


class Unwritable(DataError):
    """A place where an index cannot be written; reason: the system's words."""

    def __init__(self, home: Path, error: OSError) -> None:
        self.reason = error.strerror or str(error)
        super().__init__(f"the index cannot be written to {home}: {self.reason}")


def homes(data: Path) -> list[Path]:
    """Where the indexes of data may lie, the first place first."""
    return [data / INDEX, user_cache() / f"{data.name}-{sha256(os.fsencode(data)).hexdigest()[:12]}"]


def try_to_write(home: Path) -> None:
    """Unwritable when a place cannot be made or written."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise Unwritable(home, error) from None


def directories(homes: list[Path], pattern: str) -> list[Path]:
    """Complete indexes, the newest first."""
    found = [file for home in homes for file in home.glob(f"{pattern}/meta.json")]
    with suppress(OSError):  # removed meanwhile: whoever looks again sees what is there
        found.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)
    return [file.parent for file in found]


def remove(directory: Path) -> None:
    """Remove an index, unless somebody reads it."""
    with suppress(OSError), (directory / "meta.json").open("r+b") as meta:
        fcntl.flock(meta, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while somebody reads it
        aside = directory.with_name(f".{directory.name}.{socket.gethostname()}.{os.getpid()}.tmp")
        directory.rename(aside)  # at once, where removing takes a while
        shutil.rmtree(aside, ignore_errors=True)
