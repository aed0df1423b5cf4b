"""Writes one piece of a prepared dataset: a tar shard, or a run of files in class folders; and reads it again to check.

A piece depends on nothing but the job's description and its number, so that any worker can write it, at any time.
"""

import io
import json
import os
import socket
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import NamedTuple

import numpy as np
import xxhash

from pipelines.datasets.files import retried
from pipelines.datasets.image_headers import Flag, Header
from pipelines.datasets.imagenet import Archive
from pipelines.datasets.source import Found, Source
from pipelines.plan.random_numbers import key, permute
from pipelines.preparing.catalogue import Catalogue, Sample
from pipelines.preparing.reencoding import Reencoding, Stored, stored
from pipelines.preparing.stores import Store
from pipelines.support.errors import DataError

FOLDER_PIECE = 256  # files
_BUFFER = 1 << 22
LARGE = 8 << 20  # bytes: a file that is worth a task of its own
BESIDE = 4 * BLOCKSIZE  # bytes that a sample's .cls and .json take in a shard
# Mode 0644, no owner, no time: the same input gives the same bytes. The eight blanks stand for the checksum, which is
# the sum of all bytes of the block with blanks in its place.
_USTAR = b"%b0000644\x000000000\x000000000\x00%011o\x0000000000000\x00        0"


class File(NamedTuple):
    """A file that was written. name: below the output directory; size: bytes; digest: XXH3 128 bits, hexadecimal."""

    name: str
    size: int
    digest: str


class Member(NamedTuple):
    """A sample in a shard, as its index needs it. place: byte offset; header: width, height, EXIF orientation and
    `jpeg.Flag`, None when no decoder can read it."""

    name: str
    label: str
    place: int
    size: int
    header: tuple[int, int, int, int] | None


@dataclass
class Piece:
    """What a worker wrote. samples: how many; unreadable: those that no decoder can read, by output name;
    members: a shard's samples, in order; kept: how many the store left as they are, by why."""

    split: str
    number: int
    samples: int = 0
    files: list[File] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    kept: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "Piece":
        values = json.loads(text)
        files = [File(*file) for file in values.pop("files")]
        members = [Member(*member) for member in values.pop("members")]
        return cls(**values | {"kept": Counter(values.get("kept", {}))}, files=files, members=members)

    def index_rows(self) -> list[tuple[Found, Header | None]]:
        """The shard's samples for `index.record_index`."""
        return [
            (Found(name, label, place, size), None if header is None else Header(*header[:3], Flag(header[3])))
            for name, label, place, size, header in self.members
        ]


@dataclass(frozen=True)
class Pieces:
    """How a split is cut: `count` pieces; piece k holds samples [k * n // count, (k + 1) * n // count) of the order,
    which is the catalogue's, or shuffled by a seed."""

    catalogue: Catalogue
    source: Source
    reencoding: Reencoding
    store: Store
    count: int
    seed: int | None

    def samples(self, number: int) -> Iterator[tuple[Sample, Stored]]:
        """Each sample of a piece, in order, with what is to be stored of it."""
        total = len(self.catalogue)
        positions = np.arange(number * total // self.count, (number + 1) * total // self.count)
        if self.seed is not None:
            positions = permute(positions, total, key(self.seed, self.catalogue.split == "train"))
        yield from self.at(positions)

    def at(self, positions: np.ndarray) -> Iterator[tuple[Sample, Stored]]:
        """The samples at positions int64 (n,) of the catalogue, in that order, with what is to be stored of each."""
        if isinstance(self.source, Archive):
            self.source.will_read((sample.place, sample.size) for sample in self.catalogue.samples(positions))
        for sample in self.catalogue.samples(positions):
            try:
                data = self.source.read(sample.group, sample.name, sample.place, sample.size)
            except OSError as error:
                raise DataError(f"{sample.output} cannot be read from {self.source.root}: {error.strerror}") from None
            except DataError as error:
                raise DataError(f"{sample.output} in {self.source.root}: {error}") from None
            yield sample, stored(self.reencoding, self.store, data, sample.output)


def write_shard(pieces: Pieces, number: int, output: Path) -> Piece:
    """Writes OUTPUT/<split>-<number>.tar, which appears when it is complete: for each sample its image, its class's number as
    .cls, which WebDataset and timm read, and number and name as .json."""
    split = pieces.catalogue.split
    piece = Piece(split, number)
    final = output / shard_name(split, number)
    temporary = output / f".{final.name}.{socket.gethostname()}.{os.getpid()}.tmp"
    digest = xxhash.xxh3_128()
    written = 0
    with temporary.open("wb", buffering=0) as file:
        for sample, (data, name, header, damaged, kept) in pieces.samples(number):
            # The first folder of a member's name is its class, unless it is the split's name: then the second is.
            name = f"{split}/{name}" if sample.label == split else name
            stem = name.rpartition(".")[0] or name
            fields = json.dumps({"label": sample.number, "class_name": sample.label}).encode()
            parts = [
                *_member(name, data),
                *_member(f"{stem}.cls", b"%d" % sample.number),
                *_member(f"{stem}.json", fields),
            ]
            _write(file, digest, parts)
            known = None if header is None else _numbers(header)
            label = f"{sample.number}\t{sample.label}"  # as whoever reads the shard finds it
            piece.members.append(Member(name, label, written + len(parts[0]), len(data), known))
            written += sum(map(len, parts))
            if damaged:
                piece.unreadable.append(name)
            if kept:
                piece.kept[kept] += 1
        end = bytes(2 * BLOCKSIZE)
        _write(file, digest, [end])
        os.fsync(file.fileno())  # what has its final name is complete, after a power failure too
    temporary.rename(final)
    piece.samples = len(piece.members)
    piece.files.append(File(final.name, written + len(end), digest.hexdigest()))
    return piece


def _write(file: io.FileIO, digest: xxhash.xxh3_128, parts: list[bytes | memoryview]) -> None:
    """All parts at once, from where they are."""
    for part in parts:
        digest.update(part)
    whole = sum(len(part) for part in parts)
    written = os.writev(file.fileno(), parts)
    if written < whole:  # a signal, or the disk is nearly full: the rest, or the reason
        rest = memoryview(b"".join(parts))[written:]
        while len(rest):
            rest = rest[file.write(rest) or 0 :]


def _member(name: str, data: bytes | memoryview) -> list[bytes | memoryview]:
    """A file in an archive: header, content, and what fills its last block."""
    return [_tar_header(name, len(data)), data, bytes(-len(data) % BLOCKSIZE)]


def _numbers(header: Header) -> tuple[int, int, int, int]:
    return header.width, header.height, header.orientation, int(header.flags)


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06}.tar"


def _tar_header(name: str, size: int) -> bytes:
    """The block before a file of that name and size, the same wherever and whenever it is written (POSIX.1-1988 ustar,
    which tarfile writes as well, in ten times the time)."""
    encoded = os.fsencode(name)
    if len(encoded) > 100 or size >= 8**11:  # GNU's extensions
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    block = _USTAR % (encoded.ljust(100, b"\0"), size)
    return block.replace(b"        ", b"%06o\0 " % sum(block), 1).ljust(BLOCKSIZE, b"\0")


def write_files(pieces: Pieces, number: int, output: Path) -> Piece:
    """Writes a run of images as OUTPUT/<split>/<class>/<file>."""
    split = pieces.catalogue.split
    piece = Piece(split, number)
    for _, (data, name, _, damaged, kept) in pieces.samples(number):
        path = output / split / name
        try:
            file = path.open("wb", buffering=0)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("wb", buffering=0)
        with file:
            file.write(data)
        piece.files.append(File(f"{split}/{name}", len(data), xxhash.xxh3_128_hexdigest(data)))
        if damaged:
            piece.unreadable.append(name)
        if kept:
            piece.kept[kept] += 1
    piece.samples = len(piece.files)
    return piece


def differing(task: tuple[Path, list[File]]) -> list[str]:
    """Reads files again from beginning to end and names those that are not there, or not what was written; OSError for one that
    storage goes on not giving."""
    output, files = task
    buffer = memoryview(bytearray(_BUFFER))
    return [file.name for file in files if not _is_as_written(output, file, buffer)]


def _is_as_written(output: Path, file: File, buffer: memoryview) -> bool:
    try:
        return retried(lambda: digested(output / file.name, buffer)).digest == file.digest
    except FileNotFoundError:
        return False


def digested(path: Path, buffer: memoryview) -> File:
    """A file as it is now, by its name alone; read by parts into the buffer, since a failing disk would end a process that maps
    the file."""
    digest, size = xxhash.xxh3_128(), 0
    try:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digest.update(buffer[:count])
                size += count
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # reading names no file
    return File(path.name, size, digest.hexdigest())
