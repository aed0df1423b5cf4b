"""YUV4MPEG2 (.y4m) of one frame: an image as the planes of luma and chroma that a decoder of JPEGs would give.

A line of words, `YUV4MPEG2 W500 H375 C420jpeg XCOLORRANGE=FULL`, another, `FRAME`, and behind them the planes row by row; those
of chroma have half the width and height, rounded up, where it is halved (MJPEG Tools, yuv4mpeg(5)). ffmpeg and mpv show it.
Importing this module lets Pillow open such files. The compiled decoder reads the same header (pipelines/decoding/y4m.h).
"""

import io
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from pipelines.support.errors import DataError

FORMAT, EXTENSION, MAGIC = "YUV4MPEG2", "y4m", b"YUV4MPEG2"
LONGEST_HEADER = 256  # bytes before the first plane
# How many pixels across and down one of chroma covers, by the word after C; the first is that of files without a C.
_CHROMA = {b"420jpeg": (2, 2), b"422": (2, 1), b"444": (1, 1), b"mono": (0, 0)}
_ADVICE = "ffmpeg -pix_fmt yuvj420p -frames:v 1 makes a file that is"


class Picture(NamedTuple):
    """What a header says. across, down: pixels that one of chroma covers, 0 without chroma; start: bytes before the planes."""

    width: int
    height: int
    across: int
    down: int
    start: int

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of each plane."""
        if not self.across:
            return [(self.height, self.width)]
        chroma = (-(-self.height // self.down), -(-self.width // self.across))
        return [(self.height, self.width), chroma, chroma]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.start + sum(rows * columns for rows, columns in self.shapes)


def header_of(width: int, height: int, across: int, down: int) -> bytes:
    """What stands before the planes of a picture of that size, as `Picture` has it."""
    chroma = next(name for name, covered in _CHROMA.items() if covered == (across, down))
    return b"%b W%d H%d F1:1 Ip A1:1 C%b XCOLORRANGE=FULL\nFRAME\n" % (MAGIC, width, height, chroma)


def read_header(head: bytes, size: int) -> Picture:
    """The picture of a file of `size` bytes that begins with `head`, its first 256 or all; DataError says why it is none that
    is read here."""
    line, end, rest = head[:LONGEST_HEADER].partition(b"\n")
    if not line.startswith(MAGIC) or not end:
        raise DataError("the y4m header does not end within 256 bytes: it is corrupt or cut off")
    words = line[len(MAGIC) :].split(b" ")
    if words[0] or b"" in words[1:]:
        raise DataError("the y4m header is not words with one blank before each: it is corrupt")
    said: dict[bytes, bytes] = {}
    for word in words[1:]:
        letter, value = word[:1], word[1:]
        if letter == b"X":
            if value.startswith(b"COLORRANGE=") and value != b"COLORRANGE=FULL":
                raise DataError(f"its colours are not of the full range, as a photo's are; {_ADVICE}")
        elif letter not in b"WHCIFA" or letter in said:
            raise DataError(f"the y4m header holds {_shown(word)}, which is unknown or comes twice: it is corrupt")
        if not value:
            raise DataError(f"the y4m header holds {_shown(word)} without a value: it is corrupt")
        said[letter] = value
    sides = [_side(said.get(letter, b"")) for letter in (b"W", b"H")]
    chroma = said.get(b"C", b"420jpeg")
    if chroma not in _CHROMA:
        known = ", ".join(f"C{name.decode()}" for name in _CHROMA)
        raise DataError(f"its colours are kept as C{_shown(chroma)}; {known} are read: {_ADVICE}")
    if said.get(b"I", b"p") not in (b"p", b"?"):
        raise DataError(f"its rows are interlaced; {_ADVICE}")
    if not rest.startswith(b"FRAME\n"):
        raise DataError("no line FRAME follows the y4m header: it is corrupt or cut off")
    picture = Picture(sides[0], sides[1], *_CHROMA[chroma], len(line) + len(b"\nFRAME\n"))
    if picture.start > LONGEST_HEADER:
        raise DataError("the y4m header does not end within 256 bytes: it is corrupt")
    if picture.size > size:
        raise DataError(f"it has {size:,} bytes, and its planes need {picture.size:,}: it is truncated")
    if picture.size < size:
        raise DataError(f"{size - picture.size:,} bytes follow its planes: it holds several frames, or is corrupt")
    return picture


def _side(digits: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,5}", digits) or not 1 <= int(digits) <= 65535:
        raise DataError("the y4m header gives no width and height from 1 to 65,535 pixels: it is corrupt")
    return int(digits)


def _shown(word: bytes) -> str:
    return word[:20].decode("ascii", "backslashreplace")


def pixels_of(data: bytes | memoryview) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), RGB, or (H, W) of a gray picture: those that libjpeg-turbo makes of the same planes, to the bit."""
    picture = read_header(bytes(data[:LONGEST_HEADER]), len(data))
    planes, at = [], picture.start
    for rows, columns in picture.shapes:
        planes.append(np.frombuffer(data, np.uint8, rows * columns, at).reshape(rows, columns))
        at += rows * columns
    if not picture.across:
        return planes[0]
    luma, cb, cr = (plane.astype(np.int32) for plane in planes)
    cb, cr = (_enlarged(plane, picture)[: picture.height, : picture.width] - 128 for plane in (cb, cr))
    # jdcolor.c: sums in 16 bits of fraction.
    red = luma + (91881 * cr + 32768 >> 16)
    green = luma + (-22554 * cb - 46802 * cr + 32768 >> 16)
    blue = luma + (116130 * cb + 32768 >> 16)
    return np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)


def _enlarged(plane: NDArray[np.int32], picture: Picture) -> NDArray[np.int32]:
    """Chroma for each pixel: three quarters of the nearest, one of the next on that side (jdsample.c, "fancy upsampling"; not
    where it would have two columns or fewer)."""
    if picture.across == 1:
        return plane
    if plane.shape[1] <= 2:
        return plane.repeat(picture.down, axis=0).repeat(2, axis=1)
    rounding, shift = (1, 2), 2
    if picture.down == 2:
        above, below = _beside(plane, 0)
        plane = _interleaved(3 * plane + above, 3 * plane + below, 0)
        rounding, shift = (8, 7), 4
    left, right = _beside(plane, 1)
    return _interleaved(3 * plane + left + rounding[0] >> shift, 3 * plane + right + rounding[1] >> shift, 1)


def _beside(plane: NDArray[np.int32], axis: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Each one's neighbours before and behind; at the ends itself."""
    places = np.arange(plane.shape[axis])
    return plane.take((places - 1).clip(0), axis), plane.take((places + 1).clip(max=len(places) - 1), axis)


def _interleaved(first: NDArray[np.int32], second: NDArray[np.int32], axis: int) -> NDArray[np.int32]:
    shape = list(first.shape)
    shape[axis] *= 2
    return np.stack([first, second], axis + 1).reshape(shape)


class Y4mImage(ImageFile.ImageFile):
    """Such a file as Pillow opens it: mode RGB, or L."""

    format, format_description = FORMAT, "YUV4MPEG2, one frame"

    def _open(self) -> None:
        assert self.fp is not None
        head = self.fp.read(LONGEST_HEADER)
        picture = read_header(head, self.fp.seek(0, io.SEEK_END))
        self._size = (picture.width, picture.height)
        self._mode = "RGB" if picture.across else "L"
        self._unread = True

    def load(self):  # Pillow's own type
        """Pixels, on first use."""
        if self._unread and self.fp is not None:
            self._unread = False
            file = self.fp
            file.seek(0)
            self.fp = io.BytesIO(pixels_of(file.read()).tobytes())
            if self._exclusive_fp:
                file.close()
            # A tuple around the mode: Pillow would map the file for a mode alone.
            self.tile = [("raw", (0, 0, *self.size), 0, (self.mode,))]  # type: ignore[list-item]
        return super().load()


Image.register_open(FORMAT, Y4mImage, lambda prefix: prefix.startswith(MAGIC))
Image.register_extension(FORMAT, f".{EXTENSION}")
