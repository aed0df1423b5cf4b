"""What is wrong with one image: decoded once, wholly, by a decoder that reports what others pass over.

libjpeg fills the missing part of a JPEG that was cut off with gray and goes on, so that training never notices; here
its warnings count (simplejpeg's strict mode raises them).
"""

import io
from enum import IntFlag
from typing import NamedTuple

import numpy as np
import simplejpeg
import xxhash
from PIL import Image

from pipelines.datasets.image_headers import Flag, Header, probe_bytes
from pipelines.datasets.image_names import suffix
from pipelines.decoding.colour import upright_rgb
from pipelines.support.errors import DataError


class Condition(IntFlag):
    """What was found in an image; 0 for a sound RGB JPEG that stands upright."""

    CORRUPT = 1  # no decoder can read it
    TRUNCATED = 2  # it ends before its last row: what is missing decodes as gray, or not at all
    DAMAGED = 4  # it decodes, but its data hold something that does not belong there
    CMYK = 8  # four components: several decoders refuse it, or give it wrong colours
    GRAY = 16
    WRONG_FORMAT = 32  # its content is not what its file name says
    ROTATED = 64  # an EXIF tag turns or mirrors it: decoders that ignore the tag show it otherwise
    TINY = 128


DESCRIPTIONS = {
    Condition.CORRUPT: "cannot be decoded",
    Condition.TRUNCATED: "cut off: the missing part decodes as gray",
    Condition.DAMAGED: "decode with warnings",
    Condition.CMYK: "CMYK, four components",
    Condition.GRAY: "gray, one component",
    Condition.WRONG_FORMAT: "in another format than the name says",
    Condition.ROTATED: "turned or mirrored by an EXIF tag",
    Condition.TINY: "tiny",
}
_RGB_FILES = Image.registered_extensions()  # extension -> format; also makes Pillow load its plugins


class Examined(NamedTuple):
    """One image. width, height: pixels as displayed, 0 when unknown; digest: 16 bytes, of the upright RGB pixels, the
    same for the same picture in another lossless form; empty when there are none, or not all. reason: of CORRUPT,
    TRUNCATED, DAMAGED and WRONG_FORMAT."""

    condition: Condition
    width: int
    height: int
    digest: bytes
    reason: str


def examine(data: np.ndarray, name: str, smallest: int) -> Examined:
    """Examine an encoded image (uint8). name: for its extension, if it has one; smallest: pixels on the shorter side
    below which it counts as tiny."""
    try:
        header = probe_bytes(data.data)
    except DataError as error:
        kind = Condition.TRUNCATED if "truncated" in str(error) else Condition.CORRUPT
        return Examined(kind, 0, 0, b"", str(error))
    condition = _of_header(header, smallest)
    if header.flags & Flag.NOT_JPEG:
        pixels, found, reason = _decode_other(data)
    else:
        pixels, found, reason = _decode_jpeg(data, header)
    condition |= found
    if (wrong := _wrong_format(data, header, name)) and not reason:
        reason = wrong
    if wrong:
        condition |= Condition.WRONG_FORMAT
    if pixels is None or found & Condition.TRUNCATED:  # gray is no picture to compare with others
        return Examined(condition, header.width, header.height, b"", reason)
    if pixels.ndim == 3 and (pixels[..., 0] == pixels[..., 1]).all() and header.flags & Flag.NOT_JPEG:
        condition |= Condition.GRAY if (pixels[..., 1] == pixels[..., 2]).all() else 0
    digest = xxhash.xxh3_128(np.array(pixels.shape, "<u4").tobytes())
    digest.update(pixels.data)
    return Examined(condition, header.width, header.height, digest.digest(), reason)


def _of_header(header: Header, smallest: int) -> Condition:
    condition = Condition(0)
    if header.flags & Flag.CMYK:
        condition |= Condition.CMYK
    if header.flags & Flag.GRAY:
        condition |= Condition.GRAY
    if header.orientation != 1:
        condition |= Condition.ROTATED
    if min(header.width, header.height) < smallest:
        condition |= Condition.TINY
    return condition


def _decode_jpeg(data: np.ndarray, header: Header) -> tuple[np.ndarray | None, Condition, str]:
    """uint8 (H, W, 3) upright, or None; what decoding found, and why."""
    if header.flags & Flag.UNCOMMON:
        return _decode_other(data)
    space = "CMYK" if header.flags & Flag.CMYK else "RGB"
    found, reason = Condition(0), ""
    try:
        pixels = simplejpeg.decode_jpeg(data, space)
    except ValueError as error:
        reason = _plain(str(error))
        try:
            pixels = simplejpeg.decode_jpeg(data, space, strict=False)
        except ValueError:
            return None, Condition.CORRUPT, reason
        found = Condition.TRUNCATED if "premature end" in reason.lower() else Condition.DAMAGED
    if header.flags & Flag.CMYK and not found:
        return _decode_other(data)  # its colours depend on more than its components
    return np.ascontiguousarray(upright(pixels, header.orientation)), found, reason


def _plain(reason: str) -> str:
    """libjpeg's message as the middle of a sentence."""
    return reason[:1].lower() + reason[1:] if not reason.startswith("JPEG") else reason


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The image (H, W, components) as EXIF orientation 1..8 wants it displayed (EXIF 2.3, section 4.6.4, 0x0112)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::rows, ::columns]


def _decode_other(data: np.ndarray) -> tuple[np.ndarray | None, Condition, str]:
    try:
        with Image.open(io.BytesIO(data.data)) as image:
            return np.asarray(upright_rgb(image)), Condition(0), ""
    except Exception as error:  # Pillow's plugins raise anything on damaged files
        reason = str(error) or type(error).__name__
        return None, Condition.TRUNCATED if "truncated" in reason else Condition.CORRUPT, reason


def _wrong_format(data: np.ndarray, header: Header, name: str) -> str:
    """Says what the content is when the extension promises something else; nothing when it is right or absent."""
    promised = _RGB_FILES.get(f".{suffix(name)}")
    if promised is None or "." not in name:
        return ""
    actual: str | None = "JPEG"
    if header.flags & Flag.NOT_JPEG:
        with Image.open(io.BytesIO(data.data)) as image:
            actual = image.format
    return (
        "" if actual in (promised, None) or (promised, actual) == ("JPEG", "MPO") else f"it is {actual}, not {promised}"
    )
