"""Makes images smaller: at most so many pixels on the longest side, or another JPEG quality."""

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from pipelines.datasets.image_headers import Flag, Header, probe_bytes
from pipelines.decoding.colour import upright_rgb
from pipelines.preparing.stores import Store
from pipelines.support.errors import DataError

DEFAULT_QUALITY = 90
UNREADABLE = "unreadable"  # why a store leaves an image as it is


@dataclass(frozen=True)
class Reencoding:
    """longest_side: pixels, larger images are shrunk to it, keeping their aspect; quality: of JPEG, 1 to 100.

    Without a quality only images that are too large are encoded again, at 90; with one, all are. What is encoded again
    is upright and RGB, whatever it was.
    """

    longest_side: int | None
    quality: int | None

    def apply(self, data: np.ndarray, header: Header) -> bytes | None:
        """The image `data` (uint8, encoded) as a new JPEG; None when it can stay as it is. DataError when it cannot be
        decoded."""
        scale = min(1.0, self.longest_side / max(header.width, header.height)) if self.longest_side else 1.0
        if scale == 1.0 and self.quality is None:
            return None
        size = [max(round(side * scale), 1) for side in (header.width, header.height)]
        try:
            with Image.open(io.BytesIO(data.data)) as image:
                if header.orientation < 5:  # else its sides are still to be exchanged
                    image.draft(image.mode, (2 * size[0], 2 * size[1]))  # JPEGs: decode at a half, quarter, eighth
                upright = upright_rgb(image)
        except Exception as error:  # Pillow's plugins raise anything on damaged files
            raise DataError(f"it cannot be decoded: {error}") from None
        pixels = np.asarray(upright.resize(size, Image.Resampling.LANCZOS) if scale < 1.0 else upright)
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), self.quality or DEFAULT_QUALITY, "RGB", "420")


class Stored(NamedTuple):
    """A sample as it is to be stored: encoded bytes, name, and header, None when that cannot be read. damaged: no
    decoder can read it. kept: why its store left it as it is."""

    data: memoryview | bytes
    name: str
    header: Header | None
    damaged: bool
    kept: str = ""


def stored(reencoding: Reencoding, store: Store, data: np.ndarray, name: str) -> Stored:
    """The sample `data` (uint8, encoded) made smaller and as its store wants it, or as it is where that cannot be done."""
    header = None
    try:
        header = probe_bytes(data.data)
        if "." not in name.rpartition("/")[2]:  # from a .beton, whose samples have no names: JPEGs, and pixels as PPM
            name += ".ppm" if header.flags & Flag.NOT_JPEG else ".jpg"
        smaller = reencoding.apply(data, header)
    except DataError:
        return Stored(data.data, name, header, True, UNREADABLE if store.rewrite else "")
    if smaller is not None:
        is_jpeg = name.rpartition(".")[2].lower() in ("jpg", "jpeg", "jpe")
        name = name if is_jpeg else _renamed(name, "jpg")
        data, header = np.frombuffer(smaller, np.uint8), probe_bytes(smaller)
    if store.rewrite is None:
        return Stored(data.data, name, header, False)
    rewritten = store.rewrite(data, header)
    if rewritten.data is None:
        return Stored(data.data, name, header, False, rewritten.why)
    name = _renamed(name, rewritten.extension) if rewritten.extension else name
    return Stored(rewritten.data, name, probe_bytes(rewritten.data), False)


def _renamed(name: str, extension: str) -> str:
    return f"{name.rpartition('.')[0]}.{extension}"
