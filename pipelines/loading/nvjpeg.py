"""Which nvJPEG DALI finds, and what that one can do on a GPU."""

import ctypes
from pathlib import Path

import nvidia
import nvidia.dali

# The first whose GPU decoders cut a box out of an image whose colours they interpolate (4:2:0, nearly every photo). Below it,
# nvImageCodec decodes such an image on the CPU, with a warning for each.
BOXES = (13, 2)


def version() -> tuple[int, int] | None:
    """Major and minor version of the nvJPEG for DALI's CUDA, None where none is found."""
    name = f"libnvjpeg.so.{nvidia.dali.__cuda_version__ // 1000}"
    found = [path for folder in nvidia.__path__ for path in sorted(Path(folder).glob(f"*/lib*/{name}"))]
    for library in (*map(str, found), name):
        try:
            loaded = ctypes.CDLL(library)
        except OSError:
            continue
        numbers = [ctypes.c_int(), ctypes.c_int()]
        if not any(loaded.nvjpegGetProperty(place, ctypes.byref(number)) for place, number in enumerate(numbers)):
            return numbers[0].value, numbers[1].value
    return None
