"""A whole JPEG to pixels, by torchvision or by TorchCodec: both bind libjpeg-turbo and release the interpreter lock.

torchvision announces the end of its image decoding (from 0.29) and names TorchCodec (from 0.16) as its successor; either
serves here, torchvision where it still decodes, and their pixels are equal (benchmarks/studies/whole_jpeg.py).
"""

import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple, cast

import torch
from torch import Tensor

_PILLOW = "Pillow, which is slower, for want of torchvision or torchcodec"
_RGB = 3  # ImageReadMode.RGB of both
_EXIF, _SKIPPED = 0xE1, 0xEF  # APP1, and APP15, which no decoder looks at
_FRAME_OR_SCAN = {*range(0xC0, 0xD0), 0xD9, 0xDA} - {0xC4, 0xC8, 0xCC}


class WholeJpeg(NamedTuple):
    """A decoder and its library's name. decode: uint8 (n,), the bytes -> uint8 (3, H, W), RGB 0..255, as stored, not as
    EXIF wants it turned. It raises RuntimeError or ValueError for what it cannot decode."""

    name: str
    decode: Callable[[Tensor], Tensor] | None


def named() -> str:
    """By what whole JPEGs will be decoded here. Imports nothing: torchvision takes two seconds to import, as long as torch,
    and most runs never need it, since the compiled decoder takes all but unusual images."""
    return next((name for name in _LIBRARIES if find_spec(name)), _PILLOW)


@cache
def whole_jpeg() -> WholeJpeg:
    """What decodes here: the first library that is there and works, Pillow (no decoder) without any. Says so if that is
    another than `named`."""
    found, expected = next(iter(usable()), WholeJpeg(_PILLOW, None)), named()
    if found.name != expected:
        print(f"{expected} is installed but does not decode: whole images by {found.name}", file=sys.stderr, flush=True)
    return found


def usable() -> list[WholeJpeg]:
    """The decoders of the libraries that are there and work, the preferred first."""
    found = []
    for name, load in _LIBRARIES.items():
        try:
            found.append(WholeJpeg(name, load()))
        except (ImportError, AttributeError, OSError, RuntimeError):  # absent, or built for another torch
            continue
    return found


def _torchvision() -> Callable[[Tensor], Tensor]:
    import torchvision.io  # noqa: F401  registers its operators

    # The operator itself: the function around it announces its end anew for every image, 9% of the time that decoding takes.
    operator = torch.ops.image.decode_jpeg
    return lambda encoded: operator(encoded, _RGB, False)


def _torchcodec() -> Callable[[Tensor], Tensor]:
    from torchcodec.decoders import decode_jpeg

    return lambda encoded: cast(Tensor, decode_jpeg(without_exif(encoded), mode="RGB"))


_LIBRARIES = {"torchvision": _torchvision, "torchcodec": _torchcodec}


def without_exif(encoded: Tensor) -> Tensor:
    """The bytes (n,) with their EXIF blocks marked as ones to skip: TorchCodec would turn the image as it reads them, and
    how an image is turned is for the index to say, alike on every backend."""
    data, changed, at = encoded.numpy(), None, 2
    while at + 4 <= len(data):
        marker = int(data[at + 1])
        if data[at] != 0xFF or marker == 0xFF:  # padding or garbage between segments
            at += 1
        elif marker in _FRAME_OR_SCAN:
            break
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            at += 2
        else:
            if marker == _EXIF:
                changed = data.copy() if changed is None else changed
                changed[at + 1] = _SKIPPED
            at += 2 + max(2, 256 * int(data[at + 2]) + int(data[at + 3]))
    return encoded if changed is None else torch.from_numpy(changed)
