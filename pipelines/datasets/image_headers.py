"""Reads what the index needs from an image's first bytes: size as displayed, orientation, and how it can be decoded.

A JPEG is a chain of marker segments (ITU-T T.81, annex B). The parser follows the chain to the frame header, which lies
behind EXIF blocks, colour profiles and quantisation tables, and reads nothing else; planes (y4m.py) begin with a line; any
other format goes through Pillow, which reads headers only.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.datasets import y4m
from pipelines.support.errors import DataError

ReadAt = Callable[[int, int], bytes]  # (offset, count) -> up to count bytes

_WINDOW = 4096  # one read of this size holds the whole header of most photos
_ORIENTATION_TAG = 0x0112
_MOST_GARBAGE = 65536  # bytes between segments before a JPEG counts as corrupt
_MOST_PIXELS = 178_956_970  # where Pillow refuses an image as a decompression bomb: 512 MiB of pixels
_PIECE = 1 << 16  # samples that are counted at once
_LARGEST_SIDE = 65535  # what a JPEG can say, and what an index entry holds


class Flag(IntFlag):
    """What is unusual about a sample; 0 for a baseline RGB JPEG. Stored in the index."""

    GRAY = 1
    CMYK = 2  # four components, CMYK or YCCK
    PROGRESSIVE = 4
    NOT_JPEG = 8  # PNG, WebP, ... under whatever name
    UNCOMMON = 16  # a JPEG that only a general decoder may know: 12-bit, lossless, arithmetic-coded
    UNREADABLE = 32  # empty, cut off in its header, or no image at all
    ENDLESS = 64  # a JPEG that does not end with the end-of-image marker: cut off, or with something behind its end
    PLANES = 128  # luma and chroma with nothing to decode (y4m.py); NOT_JPEG as well


SLOW = Flag.CMYK | Flag.NOT_JPEG | Flag.UNCOMMON  # decoded by Pillow; everything else by the fast JPEG decoder
# Decoded whole on every backend: one that decodes a part would not see whether the rest is there.
WHOLE = SLOW | Flag.ENDLESS


def cut_by_c(flags: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of n samples, by their flags, the compiled decoder cuts boxes out of: planes, and what is not decoded `WHOLE`."""
    return (flags & int(WHOLE | Flag.UNREADABLE) == 0) | (flags & int(Flag.PLANES) != 0)


def planes_and_images(flags: NDArray[np.integer]) -> NDArray[np.int64]:
    """int64 (2,): how many of n samples, by their flags, are planes, and how many encoded images. The flags may be those of a
    whole index, on disk: they are looked at piece by piece."""
    found = np.zeros(2, np.int64)
    for start in range(0, len(flags), _PIECE):
        kinds = flags[start : start + _PIECE] & int(Flag.PLANES | Flag.UNREADABLE)
        found += (np.count_nonzero(kinds == int(Flag.PLANES)), np.count_nonzero(kinds == 0))
    return found


@dataclass(frozen=True)
class Header:
    """width, height: pixels as displayed, that is after the EXIF rotation; orientation: EXIF value 1..8."""

    width: int
    height: int
    orientation: int
    flags: Flag


def probe(read_at: ReadAt, size: int) -> Header:
    """The header of the image of `size` bytes that `read_at` reads; DataError (without a name) when there is none."""
    if size == 0:
        raise DataError("the file is empty")
    window = _Window(read_at, size)
    if window.bytes(0, len(y4m.MAGIC)) == y4m.MAGIC:
        return _probe_planes(window)
    if window.bytes(0, 2) == b"\xff\xd8":
        header = _probe_jpeg(window)
        ends = window.bytes(size - 2, 2) == b"\xff\xd9"
        return header if ends else replace(header, flags=header.flags | Flag.ENDLESS)
    return _probe_other(window)


def probe_bytes(data: bytes | bytearray | memoryview) -> Header:
    """`probe` for an image that is in memory already."""
    view = memoryview(data)
    return probe(lambda offset, count: bytes(view[offset : offset + count]), view.nbytes)


class _Window:
    """A read-ahead of `_WINDOW` bytes that moves along the file: most headers cost one read, large ones a few."""

    def __init__(self, read_at: ReadAt, size: int) -> None:
        self.read_at, self.size = read_at, size
        self._start, self._data = 0, b""

    def bytes(self, offset: int, count: int) -> bytes:
        if not (self._start <= offset and offset + count <= self._start + len(self._data)):
            wanted = min(max(count, _WINDOW), max(self.size - offset, 0))
            self._start, self._data = offset, self.read_at(offset, wanted) if wanted else b""
        begin = offset - self._start
        return self._data[begin : begin + count]


# Frame headers SOF0..SOF15; C4, C8 and CC lie in the same range and are tables or reserved.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PLAIN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended sequential and progressive, all Huffman-coded


def _probe_jpeg(window: _Window) -> Header:
    orientation, at, skipped = 1, 2, 0
    while True:
        head = window.bytes(at, 4)
        if len(head) < 4:
            raise DataError("the JPEG ends before its frame header: it is truncated")
        marker = head[1]
        if head[0] != 0xFF or marker == 0xFF:  # padding or garbage between segments: decoders skip it as well
            at, skipped = at + 1, skipped + 1
            if skipped > _MOST_GARBAGE:
                raise DataError("the JPEG's segments cannot be followed: it is corrupt")
            continue
        if marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            at += 2
            continue
        if marker in (0xD9, 0xDA):
            raise DataError("the JPEG has no frame header before its image data: it is corrupt")
        length = int.from_bytes(head[2:4], "big")
        if length < 2:
            raise DataError("the JPEG holds a marker segment of impossible length: it is corrupt")
        if marker in _FRAMES:
            return _frame(window.bytes(at + 4, length - 2), marker, orientation)
        if marker == 0xE1 and orientation == 1 and window.bytes(at + 4, 6) == b"Exif\0\0":
            orientation = exif_orientation(window.bytes(at + 10, length - 8))
        at += 2 + length


def _frame(body: bytes, marker: int, orientation: int) -> Header:
    if len(body) < 6:
        raise DataError("the JPEG ends within its frame header: it is truncated")
    precision, height, width, components = struct.unpack(">BHHB", body[:6])
    if width == 0 or height == 0:
        raise DataError("the JPEG's frame header gives no size: it is corrupt")
    flags = {1: Flag.GRAY, 3: Flag(0), 4: Flag.CMYK}.get(components, Flag.UNCOMMON)
    if marker not in _PLAIN_FRAMES or precision != 8:
        flags |= Flag.UNCOMMON
    if marker == 0xC2:
        flags |= Flag.PROGRESSIVE
    return _displayed(width, height, orientation, flags)


def _probe_planes(window: _Window) -> Header:
    picture = y4m.read_header(window.bytes(0, y4m.LONGEST_HEADER), window.size)
    gray = Flag(0) if picture.across else Flag.GRAY
    return _displayed(picture.width, picture.height, 1, Flag.NOT_JPEG | Flag.PLANES | gray)


def _displayed(width: int, height: int, orientation: int, flags: Flag) -> Header:
    if max(width, height) > _LARGEST_SIDE:
        raise DataError(f"the image is {width} x {height} pixels; at most {_LARGEST_SIDE} a side are supported")
    if width * height > _MOST_PIXELS:
        raise DataError(f"the image is {width} x {height} pixels, more than the {_MOST_PIXELS:,} that are decoded")
    if orientation >= 5:  # 5..8 lie on their side
        width, height = height, width
    return Header(width, height, orientation, flags)


def exif_orientation(tiff: bytes) -> int:
    """The orientation (1..8) in an EXIF block that starts at its TIFF header; 1 when it is absent or damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return 1
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, directory)
    for entry in range(directory + 2, min(directory + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
        form = {3: "H", 4: "I"}.get(kind)  # SHORT, as EXIF wants it, or LONG, as some write: held in the entry itself
        if tag == _ORIENTATION_TAG and form:
            (value,) = struct.unpack_from(f"{order}{form}", tiff, entry + 8)
            return value if 1 <= value <= 8 else 1
    return 1


def _probe_other(window: _Window) -> Header:
    file = io.BufferedReader(_Reader(window.read_at, window.size), _WINDOW)
    try:
        with Image.open(file) as image:
            width, height = image.size
            return _displayed(width, height, pillow_orientation(image), Flag.NOT_JPEG)
    except DataError:
        raise
    except Image.UnidentifiedImageError:
        raise DataError("it is no image that can be read") from None
    except Exception as error:  # Pillow's plugins raise anything on damaged files
        raise DataError(f"its header cannot be read: {error}") from None


def pillow_orientation(image: Image.Image) -> int:
    """The EXIF orientation (1..8) of an image that Pillow opened."""
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


class _Reader(io.RawIOBase):
    """A file object over `read_at`, for Pillow."""

    def __init__(self, read_at: ReadAt, size: int) -> None:
        self._read_at, self._size, self._at = read_at, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(self._size - self._at, 0))
        data = self._read_at(self._at, wanted) if wanted else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
