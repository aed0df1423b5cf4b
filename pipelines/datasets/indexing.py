"""Lists samples and reads their headers, for the index: on threads, and for many samples in processes of their own.

The processes are new ones and no forks, which a process that computes on several threads or on a GPU could not make
safely. They import nothing but what reads headers, and end with the process that started them.
"""

import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.datasets.files import FINAL, retried
from pipelines.datasets.image_headers import Flag, Header, probe
from pipelines.datasets.source import Aside, Found, Piece, Source
from pipelines.support.cores import usable_cores
from pipelines.support.errors import DataError

ENTRY = np.dtype(
    [
        ("place", "<u8"),  # byte offset in a shard; 0 for a file
        ("modified", "<i8"),  # ns since 1970, of the file that holds the sample, when its header was read
        ("name", "<u4"),  # byte offset in the names
        ("size", "<u4"),  # bytes
        ("label", "<i4"),  # position in the classes
        ("group", "<u4"),  # position in the source's groups (class folders or shards)
        ("width", "<u2"),  # pixels, as displayed
        ("height", "<u2"),
        ("flags", "<u2"),  # image_headers.Flag in the low byte, EXIF orientation in the high byte
    ]
)
_CHUNK = 256  # samples a thread's task
_THREADS = 32  # in all processes together: more than cores, since the time goes into waiting for storage
_FEW = 20_000  # samples that are read before it pays to start processes
_RUNS = 8  # tasks for each process: some hold more work than others
_MOST_PIECES = 32  # in a task
_LARGEST = 0xFFFFFFFF  # bytes of a sample, and of all names


class Part(NamedTuple):
    """Some samples of one group, in order. entries: structured array (n,) of `ENTRY`, whose labels are positions in `labels`
    and whose names are offsets in `names`, where each ends with a zero byte."""

    group: int
    entries: np.ndarray
    names: bytes
    labels: list[str]


Seen = tuple[Found, int, Header | None]
"""A sample, when its file was modified (ns), and its header; none when it cannot be read."""


def made_part(group: int, rows: Sequence[Seen]) -> Part:
    """Samples of a group as the index holds them; DataError when one is too large for it."""
    labels: dict[str, int] = {}
    names = [os.fsencode(found.name) + b"\0" for found, _, _ in rows]
    headers = [header or Header(0, 0, 1, Flag.UNREADABLE) for _, _, header in rows]
    largest = max((found.size for found, _, _ in rows), default=0)
    if largest > _LARGEST:
        raise DataError(f"a sample of {largest:,} bytes is larger than an index can describe (4 GiB)")
    entries = np.zeros(len(rows), ENTRY)
    entries["place"] = [found.place for found, _, _ in rows]
    entries["modified"] = [modified for _, modified, _ in rows]
    entries["size"] = [found.size for found, _, _ in rows]
    entries["label"] = [labels.setdefault(found.label, len(labels)) for found, _, _ in rows]
    lengths = np.array([len(name) for name in names], np.int64)
    entries["name"] = np.cumsum(lengths) - lengths
    entries["group"] = group
    entries["width"] = [header.width for header in headers]
    entries["height"] = [header.height for header in headers]
    entries["flags"] = [int(header.flags) | header.orientation << 8 for header in headers]
    return Part(group, entries, b"".join(names), list(labels))


def parts(source: Source, pieces: Sequence[Piece]) -> Iterator[tuple[int, Part | Aside]]:
    """Every sample of the pieces in order: (position of its piece, part), and at each piece's end (position, what lay beside).

    DataError when a piece cannot be listed, or storage goes on failing while headers are read.
    """
    seen, done = 0, 0
    for position, part in _on_threads(source, pieces, _THREADS):
        yield position, part
        if isinstance(part, Part):
            seen += len(part.entries)
            continue
        done += 1
        if seen >= _FEW and min(len(pieces) - done, usable_cores()) > 1:
            break
    if done < len(pieces):
        for position, part in _in_processes(source, pieces[done:]):
            yield done + position, part


def _on_threads(source: Source, pieces: Iterable[Piece], threads: int) -> Iterator[tuple[int, Part | Aside]]:
    """`parts` in this process; few chunks are in flight."""
    pool = ThreadPoolExecutor(threads, "index")
    in_flight: deque[tuple[int, Future | Aside]] = deque()
    try:
        for position, piece in enumerate(pieces):
            found = source.listed(piece)
            while chunk := list(islice(found, _CHUNK)):
                in_flight.append((position, pool.submit(_probed, source, piece.group, chunk)))
                while len(in_flight) > 2 * threads:
                    yield _done(in_flight.popleft())
            in_flight.append((position, source.aside()))
        while in_flight:
            yield _done(in_flight.popleft())
    except OSError as error:
        where = error.filename or source.root
        raise DataError(f"{os.fsdecode(where)} cannot be read: {error.strerror or error}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _done(item: tuple[int, Future | Aside]) -> tuple[int, Part | Aside]:
    position, future = item
    return position, future if isinstance(future, Aside) else future.result()


def _probed(source: Source, group: int, chunk: list[Found]) -> Part:
    return made_part(group, [_seen(source, group, found) for found in chunk])


def _seen(source: Source, group: int, found: Found) -> Seen:
    """What a sample's file shows; no header for a file that is not there, or not for this user: whoever opens the index will
    look again."""
    try:
        return retried(lambda: _looked_at(source, group, found))
    except OSError as error:
        if error.errno in FINAL:
            return found, 0, None
        raise DataError(
            f"{source.file(group, found.name)} cannot be read: {error.strerror}; start again when the storage works"
        ) from None


def _looked_at(source: Source, group: int, found: Found) -> Seen:
    file = source.opened(group, found.name)
    stat = file.stat()
    if source.own_files:
        found = found._replace(size=stat.st_size)
    try:
        header = probe(source.reader(file.descriptor, found.name, found.place), found.size)
        source.confirm(found.name, header)
    except DataError:
        return found, stat.st_mtime_ns, None
    return found, stat.st_mtime_ns, header


def _in_processes(source: Source, pieces: Sequence[Piece]) -> Iterator[tuple[int, Part | Aside]]:
    """`parts`, listed and read by one process a core."""
    length = min(max(len(pieces) // (_RUNS * usable_cores()), 1), _MOST_PIECES)
    runs = [(start, pieces[start : start + length]) for start in range(0, len(pieces), length)]
    team = _Team(source, min(usable_cores(), len(runs)))
    in_flight: deque[tuple[int, Future]] = deque()
    try:
        for start, run in [*runs, (0, None)]:
            while in_flight and (run is None or len(in_flight) > 2 * team.size):
                before, future = in_flight.popleft()
                for position, part in future.result():
                    yield before + position, part
            if run is not None:
                in_flight.append((start, team.ask(run)))
    finally:
        team.close()


class _Team:
    """`size` processes that list and read pieces of a source, each spoken to by a thread of this one."""

    def __init__(self, source: Source, size: int) -> None:
        self.size, self._source = size, source
        self._pool, self._own = ThreadPoolExecutor(size, "index"), threading.local()
        self._processes: list[subprocess.Popen] = []

    def ask(self, run: Sequence[Piece]) -> Future:
        """The list of `parts` of some pieces."""
        return self._pool.submit(self._answer, run)

    def _answer(self, run: Sequence[Piece]) -> list[tuple[int, Part | Aside]]:
        if not hasattr(self._own, "process"):
            self._own.process = self._started()
        try:
            pickle.dump(run, self._own.process.stdin)
            self._own.process.stdin.flush()
            answer = pickle.load(self._own.process.stdout)
        except (EOFError, BrokenPipeError):
            raise DataError(
                f"a process that indexed {self._source.root} ended with status {self._own.process.wait()}; start again"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _started(self) -> subprocess.Popen:
        root = str(Path(__file__).parents[2])
        code = f"import sys; sys.path.insert(0, {root!r}); from pipelines.datasets.indexing import serve; serve()"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._processes.append(process)
        assert process.stdin is not None
        pickle.dump((self._source, max(2, _THREADS // self.size)), process.stdin)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        self._pool.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()


def serve() -> None:
    """Answer what `_Team` asks, until it is gone."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever is printed must not stand between the answers
    source, threads = pickle.load(sys.stdin.buffer)
    while True:
        try:
            run = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: object
        try:
            answer = list(_on_threads(source, run, threads))
        except DataError as error:
            answer = error
        except Exception:
            answer = RuntimeError(traceback.format_exc())
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
