"""Carries out slots of a batch from a `.beton`, compiled by numba and without the interpreter lock: read, decode, crop,
resize, mirror.

The decoder is FFCV's library with the libjpeg-turbo that it is linked with. That is called directly rather than through
the library's `imdecode`, which decodes with an inexact transform (45 dB from Pillow, where this is exact), keeps its
handles when a thread ends, and hides which warning was met (docs/ffcv.md).
"""

import ctypes
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.loading.ffcv_resize import most_taps, resize_box
from pipelines.support.errors import DataError

JOB = np.dtype(
    [
        ("place", "<u8"),  # byte offset in the file; where it was read already, in the bytes read
        ("size", "<u4"),  # bytes
        ("width", "<u2"),  # pixels, of the whole image
        ("height", "<u2"),
        ("left", "<i4"),  # the box
        ("top", "<i4"),
        ("box_width", "<i4"),
        ("box_height", "<i4"),
        ("flip", "u1"),
        ("kind", "u1"),
    ]
)
IS_JPEG, IS_RAW, IS_OTHER = range(3)  # the kinds: a JPEG, RGB pixels, what this decoder leaves to another
_RGB = np.int32(0)  # TJPF_RGB
_STOP_ON_WARNING = np.int32(8192)  # TJFLAG_STOPONWARNING
_WORTH_STOPPING = 16  # lines below the box from which on it pays to stop before them

compiled = njit(nogil=True, error_model="numpy")


def _library() -> ctypes.CDLL:
    """FFCV's library, without its package: importing that takes seconds and sets torch's threads to one."""
    spec = find_spec("ffcv")
    assert spec is not None  # the backend is offered only where it is installed
    files = [file for folder in spec.submodule_search_locations or () for file in Path(folder).glob("_libffcv*.so")]
    try:
        return ctypes.CDLL(str(files[0]))
    except (IndexError, OSError) as error:
        raise DataError(
            f"FFCV's library cannot be loaded ({error}); build it again: pip install --force-reinstall --no-deps ffcv"
        ) from None


_turbojpeg = _library()
_turbojpeg.tjInitDecompress.argtypes, _turbojpeg.tjInitDecompress.restype = [], ctypes.c_void_p
_turbojpeg.tjDestroy.argtypes, _turbojpeg.tjDestroy.restype = [ctypes.c_void_p], ctypes.c_int
_decompress = _turbojpeg.tjDecompress2
_decompress.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, *5 * [ctypes.c_int]]
_decompress.restype = ctypes.c_int
_read = ctypes.CDLL(None).pread64
_read.argtypes, _read.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64], ctypes.c_ssize_t


class Scratch(NamedTuple):
    """What one thread works in. handle: of its libjpeg-turbo decompressor; bytes: encoded; pixels: RGB, flat; row, line
    and the rest: see `ffcv_resize`."""

    handle: np.uintp
    bytes: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    row: NDArray[np.uint16]
    line: NDArray[np.uint8]
    starts_y: NDArray[np.int64]
    starts_x: NDArray[np.int64]
    weights_y: NDArray[np.uint16]
    weights_x: NDArray[np.uint16]
    lanes: NDArray[np.uint16]


class Decoder:
    """One thread's decoder: a decompressor, and buffers that grow to what the largest image so far needed."""

    def __init__(self) -> None:
        handle = _turbojpeg.tjInitDecompress()
        if not handle:
            raise MemoryError("libjpeg-turbo has no memory for a decompressor")
        byte, short, number = np.empty(0, np.uint8), np.empty(0, np.uint16), np.empty(0, np.int64)
        self._scratch = Scratch(np.uintp(handle), byte, byte, short, byte, number, number, short, short, short)
        self.close = weakref.finalize(self, _turbojpeg.tjDestroy, handle)
        """Free the decompressor; the decoder cannot be used again."""

    def run(self, file: int, read: NDArray[np.uint8] | None, jobs: np.ndarray, out: NDArray[np.uint8]) -> Sequence[int]:
        """Carry out jobs, a structured array (n,) of `JOB`, on an open file, or on `read`, bytes of it that may be
        written to. out: uint8 (n, size, size, 3). Returns the jobs that failed or were left to another decoder."""
        scratch = self._fitted(jobs, out.shape[1])
        if read is not None:
            file, scratch = -1, scratch._replace(bytes=read)
        failed = np.zeros(len(jobs), np.bool_)
        carry_out(file, jobs, out, failed, scratch)
        return np.flatnonzero(failed).tolist()

    def _fitted(self, jobs: np.ndarray, size: int) -> Scratch:
        ours = jobs[jobs["kind"] != IS_OTHER]
        if len(ours):
            width, height = int(ours["box_width"].max()), int(ours["box_height"].max())
            taps_y, taps_x = most_taps(height, size), most_taps(width, size) + 1
            needs = {
                "bytes": int(ours["size"].max()),
                "pixels": 3 * int((ours["width"].astype(np.int64) * ours["height"]).max()),
                "row": 3 * (width + taps_x) + 2,  # read to the end of the last pair, beyond the box, at weight zero
                "line": 3 * size + 1,
                "starts_y": size,
                "starts_x": size,
                "weights_y": size * taps_y,
                "weights_x": size * taps_x,
                "lanes": 4 * size * taps_x,
            }
            small = {name: need for name, need in needs.items() if len(getattr(self._scratch, name)) < need}
            grown: dict[str, Any] = {
                name: np.zeros(need, getattr(self._scratch, name).dtype) for name, need in small.items()
            }
            self._scratch = self._scratch._replace(**grown)
        return self._scratch


@compiled
def carry_out(file, jobs, out, failed, scratch):
    """`Decoder.run`, compiled; marks in `failed` what another decoder has to do."""
    size = out.shape[1]
    for number in range(len(jobs)):
        job = jobs[number]
        pixels, done = scratch.pixels, False
        if job.kind == IS_JPEG:
            done = _decode(file, job, scratch)
        elif job.kind == IS_RAW:
            start = _find_pixels(file, job, scratch)
            pixels, done = scratch.bytes[max(start, 0) :], start >= 0
        failed[number] = not done
        if done:
            target = out[number].reshape(-1)
            resize_box(
                pixels, 3 * np.int64(job.width), job.left, job.top, job.box_width, job.box_height, job.flip,
                target, size, scratch,
            )  # fmt: skip


@compiled
def _decode(file, job, scratch):
    """Decode a JPEG into scratch.pixels, down to the end of its box at least; whether that succeeded."""
    data = scratch.bytes[: job.size]
    if file < 0:
        data = scratch.bytes[job.place : job.place + job.size]
    elif _read(np.int32(file), data.ctypes.data, np.uint64(job.size), np.int64(job.place)) != job.size:
        return False
    frame, in_one_scan = _find_frame(data)
    if frame < 0 or _number(data, frame + 5) != job.height or _number(data, frame + 7) != job.width:
        return False
    height, pixels = np.int64(job.height), scratch.pixels
    # One line below the box is needed too: the colours of two neighbouring lines are mixed (JPEG's chroma subsampling).
    lines = min(np.int64(job.top) + job.box_height + 1, height)
    ends = data[len(data) - 2] == 0xFF and data[len(data) - 1] == 0xD9
    if in_one_scan and ends and height - lines >= _WORTH_STOPPING:
        # Told that the image is no higher, the decoder stops there. It then warns of the bytes left, so that success
        # shows in the last pixel written: any other warning comes, and stops it, before that. An image that happens to have
        # the colour looked for is done by the other decoder.
        data[frame + 5], data[frame + 6] = lines >> 8, lines & 0xFF
        end = 3 * lines * job.width
        pixels[end - 3], pixels[end - 2], pixels[end - 1] = 251, 1, 249
        _decompressed(data, job.width, lines, scratch)
        return pixels[end - 3] != 251 or pixels[end - 2] != 1 or pixels[end - 1] != 249
    return _decompressed(data, job.width, height, scratch) == 0


@compiled
def _decompressed(data, width, height, scratch):
    """Decode into scratch.pixels up to the first warning; libjpeg-turbo's status, 0 if there was none."""
    pitch = np.int32(0)  # none beyond the pixels
    return _decompress(
        scratch.handle, data.ctypes.data, np.uint64(len(data)), scratch.pixels.ctypes.data,
        np.int32(width), pitch, np.int32(height), _RGB, _STOP_ON_WARNING,
    )  # fmt: skip


@compiled
def _number(data, at):
    return np.int64(data[at]) << 8 | data[at + 1]


@compiled
def _find_frame(data):
    """Where a JPEG's frame header begins, -1 if that cannot be told, and whether all its data is one plain scan, without
    restart markers (ITU-T T.81, annex B)."""
    at, frame, sequential, restarts = 2, -1, True, False
    while at + 10 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xC0 or marker == 0xC1 or marker == 0xC2:
            frame, sequential = at, marker != 0xC2
        elif marker == 0xDD:
            restarts = _number(data, at + 4) != 0
        elif marker == 0xDA:
            if frame < 0:
                return -1, False
            return frame, sequential and not restarts and data[at + 4] == data[frame + 9]
        at += 2 + _number(data, at + 2)
    return -1, False


@compiled
def _find_pixels(file, job, scratch):
    """Where in scratch.bytes an image of RGB pixels begins, its box's lines read from the file; -1 if they are not
    there."""
    if file < 0:
        return np.int64(job.place)
    first = 3 * np.int64(job.width) * job.top
    data = scratch.bytes[first : first + 3 * np.int64(job.width) * job.box_height]
    if _read(np.int32(file), data.ctypes.data, np.uint64(len(data)), np.int64(job.place) + first) != len(data):
        return np.int64(-1)
    return np.int64(0)
