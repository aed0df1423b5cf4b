"""Decoding in C: a box of a JPEG, cut out and resized in one call that holds no interpreter lock (fast_decode.c).

The C is compiled on first use, for this machine's processor, and kept in the user's cache. Where no C compiler or no
libjpeg-turbo is there to do so, `library` says why, and `pipelines.decoding.decode` does the same work through torchvision.
"""

import ctypes
import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.decoding import build
from pipelines.decoding.decode import empty_images

_SOURCE = Path(__file__).with_suffix(".c")
_HEADERS = (
    "fast_box.h", "fast_cut.h", "fast_item.h", "fast_resize.h", "fast_filter.h", "fast_stage.h", "jpeg_errors.h", "y4m.h",
)  # fmt: skip
_INCLUDED = [_SOURCE.with_name(name) for name in _HEADERS]
_COMMAND = ("cc", "-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC")
_WIDTH, _HEIGHT, _LEFT, _TOP, _SIDE = 48, 40, 8, 9, 24  # of the test picture, and of the box in it
# Reductions inside the decoder leave at least this many source pixels for each output pixel, so that the antialiased
# resize still does most of the work: with 3 the median stays above 50 dB of a full decode, the worst above 40, at any
# size; with 2 they do not. 0 would forbid them.
_KEEP = 3


# The C's `item`: address of the path, or of the bytes; place in an open file, size in bytes; when the file was modified (ns;
# below 0: whenever); the file, or -1; the box, the size that it is resized to and the place of the square in that; bicubic or
# not, mirrored or not; the EXIF orientation; whether the file holds planes (y4m.h).
ITEM = np.dtype(
    [(name, "<u8") for name in ("path", "bytes", "place", "size")]
    + [("modified", "<i8")]
    + [(name, "<i4") for name in ("file", "left", "top", "width", "height", "across", "down", "x", "y")]
    + [(name, "<i4") for name in ("bicubic", "flip", "orientation", "planes", "status")],
    align=True,
)
_DONE = 1  # the C's status of an item that it has carried out; 0 stands in one that it never saw


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The compiled C, which has decoded a picture rightly, or nothing and why."""
    return build.loaded("fast_decode", (_SOURCE, *_INCLUDED), _COMMAND, _wrong)


def _wrong(compiled: ctypes.CDLL) -> str:
    """What is wrong with how the C decodes a picture; nothing when it does it rightly."""
    compiled.carry_out_items.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    compiled.cut_items.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    compiled.stage_needs.argtypes = (*compiled.cut_items.argtypes, ctypes.c_void_p)
    compiled.stage_items.argtypes = (*compiled.stage_needs.argtypes, ctypes.c_void_p)
    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    picture = np.stack([5 * columns, 6 * rows, 2 * (rows + columns)], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    with Image.open(file) as image:
        wanted = np.asarray(image.convert("RGB"))[_TOP : _TOP + _SIDE, _LEFT : _LEFT + _SIDE]
    pixels = empty_images(1, _SIDE)
    encoded = np.frombuffer(file.getvalue(), np.uint8)
    box = np.array([[_LEFT, _TOP, _SIDE, _SIDE]])
    if not carry_out(compiled, [encoded], np.array([len(encoded)]), box, np.array([False]), pixels)[0]:
        return "it does not decode a test picture: libjpeg's headers are not those of its library"
    off = np.abs(pixels[0].permute(1, 2, 0).numpy().astype(int) - wanted)
    return "it decodes a test picture wrongly: libjpeg's headers are not those of its library" if off.max() > 4 else ""


def carry_out(
    compiled: ctypes.CDLL,
    encoded: Sequence[bytes | np.ndarray | None],
    sizes: NDArray[np.integer],
    boxes: NDArray[np.integer],
    flips: NDArray[np.bool_],
    out: Tensor,
    keep: int = _KEEP,
    orientation: int = 1,
    views: NDArray[np.integer] | None = None,
    bicubic: bool = False,
) -> list[bool]:
    """Decode, crop and resize n samples to `out`, uint8 (n, 3, size, size) channels_last and contiguous.

    encoded: each JPEG's bytes as an array, or the path of its file as bytes, or None for a sample to leave out; sizes:
    bytes (n,); boxes: int (n, 4) left, top, width, height in pixels as displayed, turned by the EXIF orientation; flips: bool
    (n,); views: int (n, 4), a plan's `views` (none: the whole box). Returns which samples are done; the others are not JPEGs
    that this can decode, or cannot be read, and their slots hold anything.
    """
    items = np.zeros(len(encoded), ITEM)
    items["file"] = items["modified"] = -1
    for slot, data in enumerate(encoded):
        if isinstance(data, bytes):
            items["path"][slot] = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
        elif data is not None:
            items["bytes"][slot] = data.__array_interface__["data"][0]
    items["size"], items["flip"], items["orientation"] = sizes, flips, orientation
    items["left"], items["top"], items["width"], items["height"] = boxes.T
    whole = (out.shape[-1], out.shape[-1], 0, 0)
    items["across"], items["down"], items["x"], items["y"] = whole if views is None else views.T
    items["bicubic"] = bicubic
    return carry_out_items(compiled, items, out, keep).tolist()


def carry_out_items(compiled: ctypes.CDLL, items: np.ndarray, out: Tensor, keep: int = _KEEP) -> NDArray[np.bool_]:
    """`carry_out` for a structured array (n,) of `ITEM`, whose status it changes: bool (n,), which are done. An item of
    an open file is read at its place."""
    compiled.carry_out_items(items.ctypes.data, len(items), out.shape[-1], keep, out.data_ptr())
    return items["status"] == _DONE


def cut_items(compiled: ctypes.CDLL, items: np.ndarray, side: int) -> list[NDArray[np.uint8]]:
    """What another decoder needs of each of n samples that lie in files, a structured array (n,) of `ITEM`, for a square
    of `side` pixels: a smaller JPEG where restart markers let it be cut out, else all its bytes. The items' boxes are in it
    afterwards. One that could not be read has no bytes."""
    room = np.empty(int(items["size"].sum()), np.uint8)
    compiled.cut_items(items.ctypes.data, len(items), side, room.ctypes.data)
    ends = np.cumsum(items["size"], dtype=np.int64)
    return [room[end - size : end] for end, size in zip(ends.tolist(), items["size"].tolist())]
