"""Where what was worked out once for a machine is kept."""

import os
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path


def user_cache() -> Path:
    """This project's directory in the user's cache: below $XDG_CACHE_HOME, or ~/.cache where that is not set, or a directory of
    this user's in the system's temporary one, where neither can be written. What stands in for another is said once. Where
    none can be written, whoever writes gets the OSError."""
    return _chosen(os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME", ""), _temporary())


def temporary_cache() -> Path:
    """The directory that stands in where the user's cache cannot be written, or is full."""
    return _private(Path(_temporary()))


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # no place at all can be written
        return "/tmp"


@cache
def _chosen(xdg: str, home: str, temporary: str) -> Path:
    place = Path(xdg) / "inception" if xdg.startswith("/") else _below_home(home)
    why = "there is no home directory"
    if place is not None:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
        except OSError as error:
            why = f"{place} cannot be written ({error.strerror})"
    instead = _private(Path(temporary))
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one of a machine's ranks says it for all
        print(f"cache: {why}; {instead} is used, set XDG_CACHE_HOME to choose", file=sys.stderr, flush=True)
    return instead


def _below_home(home: str) -> Path | None:
    """The cache in the home directory; none for a user without one, as containers have them."""
    try:
        found = Path(home) if home else Path.home()
    except (RuntimeError, KeyError):  # a user identifier without a name
        return None
    return None if found == Path("/") or not found.is_absolute() else found / ".cache" / "inception"


def _private(temporary: Path) -> Path:
    """A directory that only this user can write: what lies in it is loaded as a program."""
    place = temporary / f"inception-{os.getuid()}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return place
        return Path(tempfile.mkdtemp(prefix="inception-", dir=temporary))
    except OSError:
        return place
