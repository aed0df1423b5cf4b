"""Which nvJPEG DALI finds."""

import ctypes
from pathlib import Path

import nvidia
import nvidia.dali


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
