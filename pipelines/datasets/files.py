"""The files that samples lie in: read by position, kept open within the system's limit, tried again when the system fails.

Nothing is mapped into memory. Of a mapped file that shrinks, or whose network mount fails, the next look ends the process
by a signal (SIGBUS); a read says what is wrong, and which sample it was.
"""

import contextlib
import errno
import os
import resource
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.support.errors import DataError

T = TypeVar("T")
_PAUSES = (0.05, 0.2, 1.0)  # seconds before each further try
# What another try will not change: the name is wrong, or not to be read by this user.
FINAL = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
)

# What says that nothing lies at a path; all else says nothing of what lies there.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def retried(attempt: Callable[[], T]) -> T:
    """What `attempt` returns, tried again where a network or a disk fails for a moment; OSError when it goes on failing."""
    for pause in _PAUSES:
        try:
            return attempt()
        except OSError as error:
            if error.errno in FINAL:
                raise
            OPEN.forget()  # a handle that went stale is no better the next time
            time.sleep(pause)
    return attempt()


def open_regular(path: str | os.PathLike) -> int:
    """The descriptor of a file opened for reading. DataError for a folder, pipe, socket or device, which is neither waited for
    nor read without end; OSError when it cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # what sockets answer
            check_regular(path)
        raise
    try:
        _refuse_others(path, os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_there(path: str | os.PathLike) -> bool:
    """Whether a path leads to anything; OSError, unlike pathlib's `exists`, when the system does not let see that."""
    try:
        os.stat(path)  # noqa: PTH116  # pathlib's loses why
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def mode_of(path: str | os.PathLike, *, links: bool = False) -> int:
    """The mode of what a path leads to, or with `links` of what lies there itself; 0 where nothing does. OSError, unlike what
    pathlib and os.path say, when the system does not let see that."""
    try:
        return os.stat(path, follow_symlinks=not links).st_mode  # noqa: PTH116  # pathlib takes twice as long
    except OSError as error:
        if error.errno in ABSENT:
            return 0
        raise


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a path leads to a folder; OSError as of `mode_of`."""
    return stat.S_ISDIR(mode_of(path))


def check_regular(path: str | os.PathLike) -> None:
    """DataError for what is no file but a folder, pipe, socket or device; OSError when it cannot be looked at."""
    _refuse_others(path, os.stat(path).st_mode)  # noqa: PTH116  # pathlib takes twice as long


def _refuse_others(path: str | os.PathLike, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise DataError(f"{os.fsdecode(path)} is {what}, no file; remove it or make it a file")


class OpenFile:
    """A file open for reading, closed when nobody holds it any more. descriptor: its number."""

    descriptor = -1

    def __init__(self, path: str) -> None:
        self.descriptor = open_regular(path)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # modules are gone when a process ends
        if self.descriptor >= 0:
            close(self.descriptor)

    def stat(self) -> os.stat_result:
        """Its state now, which may not be what it was when opened."""
        return os.fstat(self.descriptor)


class OpenFiles:
    """The files used last, of all datasets of this process; whoever holds one keeps it open. Safe to use from several threads."""

    def __init__(self, most: int) -> None:
        # A thread may come in a second time: whatever it does here can begin a garbage collection, and with the end of a dataset
        # that is collected its files are forgotten.
        self._most, self._files, self._lock = most, OrderedDict[str, OpenFile](), threading.RLock()

    def get(self, path: str) -> OpenFile:
        """The open file; OSError when it cannot be opened."""
        with self._lock:
            if path in self._files:
                self._files.move_to_end(path)
                return self._files[path]
            try:
                file = OpenFile(path)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._files:
                    raise
                self._shrink(len(self._files) // 2)  # others of this process need many files too
                file = OpenFile(path)
            self._files[path] = file
            self._shrink(self._most)
            return file

    def _shrink(self, most: int) -> None:
        while len(self._files) > most:
            with contextlib.suppress(KeyError):  # a collection has just forgotten the last
                self._files.popitem(last=False)

    def forget(self, beginning: str = "") -> None:
        """Open files anew when they are next wanted: those whose path begins so."""
        with self._lock:
            for path in list(self._files):
                if path.startswith(beginning):
                    self._files.pop(path, None)

    def __len__(self) -> int:
        return len(self._files)


# Three quarters of the files that a process may open: opening is dear on network file systems.
OPEN = OpenFiles(max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4, 16))


def read_at(descriptor: int, place: int, size: int, prefix: bytes = b"") -> np.ndarray:
    """uint8 (size,): `prefix`, then the bytes at an offset of an open file; DataError when it ends before."""
    data = np.empty(size, np.uint8)
    got = len(prefix)
    data[:got] = np.frombuffer(prefix, np.uint8)
    while got < size:
        more = os.preadv(descriptor, [data[got:].data], place + got - len(prefix))
        if more == 0:
            raise DataError("its file is shorter than when it was indexed: it changed while in use")
        got += more
    return data


class Located(NamedTuple):
    """Where the bytes of n samples lie. paths: of files of their own, each with a zero byte behind it, where sample k's begins at
    starts[k]; or files: int32 (n,), descriptors of open files in which they lie at their entry's place, -1 for none.
    kept: what keeps those open as long as this is there."""

    paths: bytes
    starts: NDArray[np.int64] | None
    files: NDArray[np.int32]
    kept: list[OpenFile]
