"""Decoding in C: a box of a JPEG, cut out and resized in one call that holds no interpreter lock (fast_decode.c).

The C is compiled on first use, for this machine's processor, and kept in the user's cache. Where no C compiler or no
libjpeg-turbo is there to do so, `library` says why, and `pipelines.decoding.decode` does the same work through torchvision.
"""

import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.support.cache import user_cache
from pipelines.support.locks import machine_lock

_SOURCE = Path(__file__).with_suffix(".c")
_INCLUDED = _SOURCE.with_name("fast_resize.h")
_COMMAND = ("cc", "-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC")
# Reductions inside the decoder leave at least this many source pixels for each output pixel, so that the antialiased
# resize still does most of the work: with 3 the median stays above 50 dB of a full decode, the worst above 40, at any
# size; with 2 they do not. 0 would forbid them.
_KEEP = 3


# The C's `item`: address of the path, or of the bytes; place in an open file, size in bytes; the file, or -1; the box.
ITEM = np.dtype(
    [(name, "<u8") for name in ("path", "bytes", "place", "size")]
    + [(name, "<i4") for name in ("file", "left", "top", "width", "height", "flip", "status")],
    align=True,
)


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The compiled C, or nothing and why."""
    file = user_cache() / f"fast_decode-{_fingerprint()}.so"
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with machine_lock(file.with_suffix(".lock"), announce=False):
                if not file.exists():
                    _compile(file)
        found = ctypes.CDLL(str(file))
    except subprocess.CalledProcessError as error:
        return None, next((line for line in error.stderr.splitlines() if "error" in line), "the C compiler failed")
    except OSError as error:
        return None, f"{error.filename or file}: {error.strerror or error}"
    found.carry_out_items.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    return found, ""


def _fingerprint() -> str:
    """What the compiled file depends on: the source, and what this processor can do."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return sha256(_SOURCE.read_bytes() + _INCLUDED.read_bytes() + repr((_COMMAND, processor)).encode()).hexdigest()[:16]


def _compile(file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        subprocess.run([*_COMMAND, str(_SOURCE), "-o", str(made), "-ljpeg"], check=True, capture_output=True, text=True)
        made.rename(file)


def carry_out(
    compiled: ctypes.CDLL,
    encoded: Sequence[bytes | np.ndarray | None],
    sizes: NDArray[np.integer],
    boxes: NDArray[np.integer],
    flips: NDArray[np.bool_],
    out: Tensor,
    keep: int = _KEEP,
) -> list[bool]:
    """Decode, crop and resize n samples to `out`, uint8 (n, 3, size, size) channels_last and contiguous.

    encoded: each JPEG's bytes as an array, or the path of its file as bytes, or None for a sample to leave out; sizes:
    bytes (n,); boxes: int (n, 4) left, top, width, height in stored pixels; flips: bool (n,). Returns which samples are
    done; the others are not JPEGs that this can decode, or cannot be read, and their slots hold anything.
    """
    items = np.zeros(len(encoded), ITEM)
    items["file"] = -1
    for slot, data in enumerate(encoded):
        if isinstance(data, bytes):
            items["path"][slot] = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
        elif data is not None:
            items["bytes"][slot] = data.__array_interface__["data"][0]
    items["size"], items["flip"] = sizes, flips
    items["left"], items["top"], items["width"], items["height"] = boxes.T
    return carry_out_items(compiled, items, out, keep).tolist()


def carry_out_items(compiled: ctypes.CDLL, items: np.ndarray, out: Tensor, keep: int = _KEEP) -> NDArray[np.bool_]:
    """`carry_out` for a structured array (n,) of `ITEM`, whose status it changes: bool (n,), which are done. An item of
    an open file is read at its place."""
    compiled.carry_out_items(items.ctypes.data, len(items), out.shape[-1], keep, out.data_ptr())
    return items["status"] == 0
