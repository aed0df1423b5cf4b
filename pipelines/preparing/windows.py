"""The store "windows": JPEGs rewritten without loss, so that a crop is cut out of their bytes before any decoder (windows.c).

They are ordinary JPEGs, which everything reads: restart markers every few units (MCUs), optimal Huffman tables, progressive made
baseline, markers and EXIF kept. Whoever cuts them is pipelines/decoding/fast_cut.h.
"""

import ctypes
import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.datasets.image_headers import Flag, Header
from pipelines.decoding import build
from pipelines.preparing.rewriting import Rewritten
from pipelines.support.errors import DataError

_SOURCE = Path(__file__).with_suffix(".c")
_COMMAND = ("cc", "-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC")
_REWRITTEN, _NO_MEMORY = 0, 7
_LARGEST_HEADER = 4096  # bytes, of tables and frame, that the smallest JPEGs may get beside twice their own
# Why the C leaves a JPEG as it is, by its status.
_WHY = {1: "damaged", 2: "CMYK", 3: "arithmetic-coded", 4: "12-bit", 5: "incomplete progressive", 6: "uncommon"}


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The compiled C, which has rewritten a picture, or nothing and why."""
    return build.loaded("windows", (_SOURCE, Path(build.__file__).with_name("jpeg_errors.h")), _COMMAND, _wrong)


def missing() -> str:
    """What this machine lacks to rewrite JPEGs, if anything."""
    compiled, why = library()
    return "" if compiled else f"it needs a C compiler and libjpeg-turbo's headers (libjpeg-turbo8-dev): {why}"


def rewrite(data: np.ndarray, header: Header) -> Rewritten:
    """The JPEG `data`, uint8 (n,), with windows; why not, where it stays as it is. Its coefficients are the same."""
    if header.flags & Flag.NOT_JPEG:
        return Rewritten(None, "no JPEG")
    if header.flags & Flag.ENDLESS:
        return Rewritten(None, "not ending where it should")
    compiled, why = library()
    if compiled is None:
        raise DataError(f"--store windows cannot be made here: {why}")
    return _rewritten(compiled, data)


def _rewritten(compiled: ctypes.CDLL, data: np.ndarray) -> Rewritten:
    room = ctypes.c_size_t(2 * data.nbytes + _LARGEST_HEADER)
    out = np.empty(room.value, np.uint8)
    status = compiled.rewrite_jpeg(data.ctypes.data, data.nbytes, out.ctypes.data, ctypes.byref(room))
    if status == _NO_MEMORY:
        raise MemoryError("no memory to rewrite a JPEG")
    return Rewritten(out[: room.value].tobytes()) if status == _REWRITTEN else Rewritten(None, _WHY[status])


def _wrong(compiled: ctypes.CDLL) -> str:
    """What is wrong with how the C rewrites a picture; nothing when its pixels stay."""
    compiled.rewrite_jpeg.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]
    file = io.BytesIO()
    Image.fromarray(np.arange(3 * 40 * 48, dtype=np.uint8).reshape(40, 48, 3)).save(file, "JPEG")
    rewritten = _rewritten(compiled, np.frombuffer(file.getvalue(), np.uint8))
    if rewritten.data is None or b"\xff\xd0" not in rewritten.data:
        return "it does not rewrite a test picture: libjpeg's headers are not those of its library"
    with Image.open(file) as before, Image.open(io.BytesIO(rewritten.data)) as after:
        same = np.array_equal(np.asarray(before), np.asarray(after))
    return "" if same else "it changes a test picture: libjpeg's headers are not those of its library"
