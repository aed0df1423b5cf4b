"""A whole JPEG as planes: what its decoder has before it enlarges chroma and converts colours, written as a .y4m (jpeg_planes.c).

Needs neither torch nor anything but a C compiler and libjpeg-turbo's headers.
"""

import ctypes
import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.datasets import y4m
from pipelines.datasets.image_headers import Flag, Header
from pipelines.decoding import build
from pipelines.support.errors import DataError

_SOURCE = Path(__file__).with_suffix(".c")
_COMMAND = ("cc", "-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC")
# Why a JPEG stays one, by the C's status, from 1 on.
_REASONS = (
    "not gray or YCbCr",
    "with a chroma subsampling that y4m has not (4:1:1, 4:4:0, ...)",
    "decoded with warnings",
    "progressive and without their last scans",
    "not decodable by libjpeg",
)
_NO_MEMORY = len(_REASONS) + 1


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The compiled C, which has made the planes of a picture rightly, or nothing and why."""
    return build.loaded("jpeg_planes", (_SOURCE, _SOURCE.with_name("jpeg_errors.h")), _COMMAND, _wrong)


def missing() -> str:
    """What making planes needs and this machine lacks; nothing when it can."""
    compiled, why = library()
    return "" if compiled is not None else f"a C compiler and libjpeg-turbo's headers are needed ({why})"


def planes(data: np.ndarray, header: Header) -> tuple[memoryview | None, str]:
    """The image `data` (uint8, encoded) as a .y4m from which the loader makes the same pixels, to the bit; or nothing and why
    it is to stay as it is, in words that images of its kind share."""
    if header.flags & Flag.PLANES:
        return None, "planes already"
    if header.flags & Flag.NOT_JPEG:
        return None, "not JPEG (--quality makes it one)"
    if header.flags & Flag.CMYK:
        return None, "CMYK"
    if header.flags & Flag.UNCOMMON:
        return None, "of an uncommon coding (12 bits, lossless, arithmetic)"
    if header.orientation != 1:
        return None, "turned by EXIF"
    if header.flags & Flag.ENDLESS:
        return None, "without an end marker at their end"
    compiled, why = library()
    if compiled is None:
        raise DataError(f"--store planes cannot be made here: {why}")
    return _made(compiled, data, header)


def _made(compiled: ctypes.CDLL, data: np.ndarray, header: Header) -> tuple[memoryview | None, str]:
    room = np.empty(y4m.LONGEST_HEADER + 3 * header.width * header.height, np.uint8)
    covered = (ctypes.c_int32 * 2)()
    where = room.ctypes.data + y4m.LONGEST_HEADER
    data = np.ascontiguousarray(data)
    status = compiled.planes_of(data.ctypes.data, data.nbytes, header.width, header.height, covered, where)
    if status == _NO_MEMORY:
        raise MemoryError("no memory to decode a JPEG")
    if status:
        return None, _REASONS[status - 1]
    head = y4m.header_of(header.width, header.height, *covered)
    start = y4m.LONGEST_HEADER - len(head)
    room[start : y4m.LONGEST_HEADER] = np.frombuffer(head, np.uint8)
    size = y4m.Picture(header.width, header.height, covered[0], covered[1], len(head)).size
    return room[start : start + size].data, ""


def _wrong(compiled: ctypes.CDLL) -> str:
    """What is wrong with how the C makes the planes of a picture; nothing when it does it rightly."""
    compiled.planes_of.argtypes = [ctypes.c_void_p, ctypes.c_uint64, *[ctypes.c_int32] * 2, *[ctypes.c_void_p] * 2]
    rows, columns = np.mgrid[0:21, 0:35]
    picture = Image.fromarray((5 * columns + 6 * rows).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    made, why = _made(compiled, np.frombuffer(file.getvalue(), np.uint8), Header(35, 21, 1, Flag.GRAY))
    with Image.open(file) as image:
        wanted = np.asarray(image)
    same = made is not None and np.array_equal(y4m.pixels_of(made), wanted)
    return (
        ""
        if same
        else f"it makes other planes of a test picture{why and f' ({why})'}: libjpeg's headers are not its library's"
    )
