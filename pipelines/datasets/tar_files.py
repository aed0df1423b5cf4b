"""The files in a tar archive: every one with its place, or an error that says where the archive is damaged.

A tar is a chain: each header says how far it is to the next. A header that cannot be read is, to tar and to Python's
tarfile alike, the archive's end, and whatever lies behind it is lost without a word. Here an archive ends with two blocks
of zeros (POSIX.1-2017, pax, "ustar Interchange Format"); behind them may stand more zeros or another archive, and all else
is damage. Plain headers are read here; those with pax's or GNU's extensions by tarfile.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipelines.datasets.files import open_regular
from pipelines.datasets.passed_over import PassedOver
from pipelines.support.errors import DataError

BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(BLOCK)
_SCAN = 1 << 20  # bytes of an archive's end looked through at a time
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_MOST_LINKS = 40  # that one may follow to come to a file, as in Linux


class File(NamedTuple):
    """A file in an archive. name: as the archive has it, with "N@" before it in the N-th of several archives in one file
    when an earlier one holds the name; path: the name proper, without "./" and the like; place: offset of its bytes; size: bytes;
    archive: 1, 2, ..."""

    name: str
    path: str
    place: int
    size: int
    archive: int


class _Entry(NamedTuple):
    """A member as the chain has it. kind: tarfile's type, or `_SPARSE`; target: what a link points to."""

    name: str
    kind: bytes
    place: int
    size: int
    target: str


_SPARSE = b"sparse"
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_OTHERS = {
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
    _SPARSE: "stored with holes (tar --sparse)",
}


def list_files(path: Path, passed_over: PassedOver, start: int = 0, end: int | None = None) -> list[File]:
    """The files of the archive that lies in `path` between two offsets, in order; links are followed to what they name.

    Of files of one name the last counts, as when an archive is unpacked. What is neither file nor folder is counted in
    `passed_over`. DataError, which names the archive and the offset, when it is damaged; OSError when it cannot be read.
    """
    files: list[File] = []
    taken: set[str] = set()
    with _opened(path) as descriptor:
        size = os.fstat(descriptor).st_size if end is None else end
        chain = _Chain(path, descriptor, start, size)
        while (entries := chain.archive()) is not None:
            files += _resolved(entries, chain.archives, taken, passed_over)
    return files


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = open_regular(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _resolved(entries: list[_Entry], archive: int, taken: set[str], passed_over: PassedOver) -> Iterator[File]:
    """One archive's files, with links as the files that they lead to."""
    paths = [_normal(entry.name) for entry in entries]
    last = {path: number for number, path in enumerate(paths)}
    for number, (entry, path) in enumerate(zip(entries, paths)):
        if entry.kind == tarfile.DIRTYPE:
            continue
        if last[path] != number:
            passed_over.add("replaced by a later file of the same name", entry.name)
            continue
        found = _followed(number, entries, paths, last)
        if isinstance(found, str):
            passed_over.add(found, entry.name)
            continue
        name = f"{archive}@{entry.name}" if entry.name in taken else entry.name
        taken.add(entry.name)
        yield File(name, path, found.place, found.size, archive)


def _followed(number: int, entries: list[_Entry], paths: list[str], last: dict[str, int]) -> _Entry | str:
    """The file that entry `number` is or leads to, or why there is none."""
    for _ in range(_MOST_LINKS):
        entry = entries[number]
        if entry.kind in _FILES:
            return entry
        if entry.kind not in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            return (
                "link to a folder" if entry.kind == tarfile.DIRTYPE else _OTHERS.get(entry.kind, "of an unknown type")
            )
        target = entry.target
        if entry.kind == tarfile.SYMTYPE:
            target = os.path.join(os.path.dirname(paths[number]), target)  # noqa: PTH118, PTH120
        found = last.get(_normal(target))
        if found is None:
            return "link to nothing in its archive"
        if entry.kind == tarfile.LNKTYPE and found > number:  # a hard link keeps the file of that name as it was before
            found = next((before for before in range(number - 1, -1, -1) if paths[before] == paths[found]), found)
        number = found
    return "link to itself"


def _normal(name: str) -> str:
    return os.path.normpath(name).lstrip("/") if name.startswith((".", "/")) or "//" in name or "/." in name else name


class _Chain:
    """Walks the headers between two offsets of an open file. archives: how many were begun."""

    def __init__(self, path: Path, descriptor: int, start: int, end: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._start, self._at, self._end = start, start, end
        self._previous = ""
        self._extended = _Extended(_Part(descriptor, end))
        self.archives = 0

    def archive(self) -> list[_Entry] | None:
        """The members of the next archive; None behind the last one."""
        if self._at >= self._end and self.archives:
            return None
        self.archives += 1
        entries = []
        while (entry := self._entry()) is not None:
            entries.append(entry)
            self._previous = entry.name
        self._skip_zeros()
        return entries

    def _entry(self) -> _Entry | None:
        """The member whose header stands here; None where the end's first block of zeros does."""
        block = self._block(self._at)
        if block == _ZEROS:
            return None
        if len(block) < BLOCK:
            raise self._damage("it is cut off: " + ("its end mark is missing" if not block else "a header ends early"))
        entry = self._extended.entry(self._at, self._end) if (plain := _plain(block, self._at)) is None else plain
        if isinstance(entry, str):
            raise self._damage(entry)
        at = self._extended.offset if plain is None else self._at + BLOCK + _padded(entry)
        if at > self._end:
            raise self._damage(f"it is cut off in {entry.name}")
        self._at = at
        return entry

    def _skip_zeros(self) -> None:
        if self._block(self._at + BLOCK) != _ZEROS:
            short = self._at + 2 * BLOCK > self._end
            raise self._damage("its end mark is cut off" if short else "zeros stand where a header should")
        self._at += 2 * BLOCK
        while self._at < self._end:
            data = os.pread(self._descriptor, min(_SCAN, self._end - self._at), self._at)
            rest = data.lstrip(b"\0")
            self._at += (len(data) - len(rest)) // BLOCK * BLOCK if rest else len(data)
            if rest:  # another archive, unless its first header is none
                self._previous = "its end"
                return
            if not data:
                break

    def _block(self, at: int) -> bytes:
        return os.pread(self._descriptor, max(min(BLOCK, self._end - at), 0), at)

    def _damage(self, reason: str) -> DataError:
        if self._at == self._start:
            begin = self._block(self._at)
            for magic, name in _COMPRESSED.items():
                if begin.startswith(magic):
                    return DataError(f"{self._path} is compressed ({name}); images are read where they lie: unpack it")
        behind = f", behind {self._previous}" if self._previous else ""
        return DataError(
            f"{self._path} is damaged or no tar file, at byte {self._at:,}{behind}: {reason}; copy or make it again"
        )


def _padded(entry: _Entry) -> int:
    """Bytes from a plain header's end to the next header."""
    return -(-entry.size // BLOCK) * BLOCK if entry.kind in _FILES else 0


def _plain(block: bytes, at: int) -> _Entry | None:
    """What a header without any extension says; None for any other, or a damaged one."""
    kind = block[156:157]
    if kind not in (tarfile.REGTYPE, tarfile.AREGTYPE) or block[345] or block[124] & 0x80:
        return None
    try:
        checksum = int(block[148:156].strip(b" \0"), 8)
        size = int(block[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        return None
    if checksum != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        return None
    name = block[: block.index(0) if 0 in block[:100] else 100].decode("utf-8", "surrogateescape")
    return None if name.endswith("/") or not name else _Entry(name, tarfile.REGTYPE, at + BLOCK, size, "")


class _Extended(tarfile.TarFile):
    """tarfile's reader of single headers, with those that extend them."""

    def __init__(self, part: "_Part") -> None:
        super().__init__(fileobj=part, mode="r", encoding="utf-8", errors="surrogateescape")

    def next(self) -> None:  # type: ignore[override]
        """Nothing: the chain is walked elsewhere."""

    def entry(self, at: int, end: int) -> _Entry | str:
        """The member whose header begins at an offset, or what is wrong there; then `offset` is where the next begins."""
        self.offset = at
        self.fileobj.seek(at)  # type: ignore[union-attr]
        try:
            member = tarfile.TarInfo.fromtarfile(self)
        except (tarfile.TarError, ValueError, IndexError, OverflowError) as error:  # numbers in pax headers are text
            return f"a header cannot be read ({error})"
        if member.size < 0 or member.offset_data + (0 if member.issparse() else member.size) > end:
            return f"it is cut off in {member.name}"
        if "\0" in member.name:
            return f"a name holds a zero byte ({member.name.encode()!r})"
        kind = member.type
        if member.issparse():  # a file stored in one run from its beginning has no holes
            runs = [run for run in member.sparse or () if run[1]]  # type: ignore[attr-defined, index, union-attr]
            kind = tarfile.REGTYPE if runs == [(0, member.size)] else _SPARSE
        elif kind not in tarfile.SUPPORTED_TYPES:
            kind = b"?"
        return _Entry(member.name, kind, member.offset_data, member.size, member.linkname)


class _Part(io.RawIOBase):
    """An open file up to an offset, as tarfile reads it."""

    name = ""

    def __init__(self, descriptor: int, end: int) -> None:
        self._descriptor, self._end, self._at = descriptor, end, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(self._end - self._at, 0)
        data = os.pread(self._descriptor, left if size < 0 else min(size, left), self._at)
        self._at += len(data)
        return data
