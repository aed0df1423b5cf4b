"""From encoded bytes to pixels: decode any image upright in RGB, crop a box out of it and resize that to a square.

JPEGs of one or three components go through torchvision or TorchCodec (libjpeg-turbo); CMYK, PNG and everything else go
through Pillow, chosen by the image's header. All release the interpreter lock while they work.
"""

import io
import warnings
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.datasets.image_headers import SLOW, Flag, probe_bytes
from pipelines.decoding.colour import to_rgb
from pipelines.decoding.whole_jpeg import whole_jpeg
from pipelines.support.errors import DataError

Buffer = bytes | bytearray | memoryview | np.ndarray

with warnings.catch_warnings():
    # Encoded bytes are often read-only memory maps. torch warns once a process that writing to such a tensor is
    # undefined; nothing here writes to them, so the one warning is spent now.
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


def decode(data: Buffer, exif: bool = True) -> Tensor:
    """uint8 (3, H, W), RGB 0..255, of the JPEG, PNG, WebP, ... in `data`, turned upright with `exif`, else as it is stored;
    DataError on bad bytes."""
    header = probe_bytes(_view(data))
    return decode_known(data, header.flags, header.orientation if exif else 1)


def decode_known(data: Buffer, flags: int, orientation: int) -> Tensor:
    """`decode` for bytes whose header is known already, as an index entry knows it (`jpeg.Flag`, EXIF 1..8)."""
    if flags & Flag.UNREADABLE:
        probe_bytes(_view(data))  # says why
    decode_jpeg = whole_jpeg().decode
    if decode_jpeg is not None and not flags & SLOW:
        try:
            return upright(decode_jpeg(torch.frombuffer(data, dtype=torch.uint8)), orientation)
        except (RuntimeError, ValueError):
            pass  # Pillow decodes a few that this decoder refuses, and otherwise says what is wrong
    return _decode_with_pillow(data, orientation)


def _view(data: Buffer) -> memoryview:
    return data.data if isinstance(data, np.ndarray) else memoryview(data)


def upright(image: Tensor, orientation: int) -> Tensor:
    """The image (3, H, W) as EXIF orientation 1..8 wants it displayed (EXIF 2.3, section 4.6.4, tag 0x0112)."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.transpose(1, 2)
    # What is left after the transposition: mirrored left to right, top to bottom, or both.
    flips = {2: [2], 3: [1, 2], 4: [1], 5: [], 6: [2], 7: [1, 2], 8: [1]}[orientation]
    return image.flip(flips) if flips else image


def _decode_with_pillow(data: Buffer, orientation: int) -> Tensor:
    try:
        with Image.open(io.BytesIO(_view(data))) as image:
            pixels = np.array(to_rgb(image))
    except Image.UnidentifiedImageError:
        raise DataError("it is no image that can be read") from None
    except Exception as error:  # Pillow's plugins raise anything on damaged files
        raise DataError(f"it cannot be decoded: {error}") from None
    return upright(torch.from_numpy(pixels).permute(2, 0, 1), orientation)


def empty_images(count: int, size: int, *, pinned: bool = False) -> Tensor:
    """An uninitialised uint8 (count, 3, size, size) batch on the host in channels_last memory format."""
    # Allocated as NHWC and viewed as NCHW: a batch of one sample would otherwise lose the layout to stride ambiguity.
    pixels = torch.empty((count, size, size, 3), dtype=torch.uint8, pin_memory=pinned)
    return pixels.permute(0, 3, 1, 2)


Box: TypeAlias = Sequence[int]
View: TypeAlias = Sequence[int]


def crop_resize(
    image: Tensor, box: Box, size: int, flip: bool = False, view: View | None = None, bicubic: bool = False
) -> Tensor:
    """The box (left, top, width, height in pixels) of a uint8 (3, H, W) image as uint8 (3, size, size), mirrored left to right
    when `flip`: bilinear or bicubic, antialiased when it shrinks. view: a plan's of the box (width, height that it is resized
    to, left, top of the square in that), the whole box by default. DataError when the box does not lie in the image."""
    out = empty_images(1, size)
    crop_resize_into(out, image, box, flip, view, bicubic)
    return out[0]


def crop_resize_into(
    out: Tensor, image: Tensor, box: Box, flip: bool, view: View | None = None, bicubic: bool = False
) -> None:
    """`crop_resize` written to `out`, uint8 (1, 3, size, size) channels_last."""
    left, top, width, height = box
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > image.shape[2] or top + height > image.shape[1]:
        raise DataError(
            f"crop box {width} x {height} at ({left}, {top}) does not lie in the {image.shape[2]} x {image.shape[1]} image"
        )
    crop = image[None, :, top : top + height, left : left + width]
    if crop.is_contiguous():  # a plane after the other, which torch refuses beside an `out` of another layout
        crop = crop.contiguous(memory_format=torch.channels_last)
    size = out.shape[-1]
    across, down, x, y = view or (size, size, 0, 0)
    resize = torch.ops.aten._upsample_bicubic2d_aa if bicubic else torch.ops.aten._upsample_bilinear2d_aa
    if (across, down) == (size, size) != (width, height) and not flip:
        # The operation behind torch.nn.functional.interpolate, which has no `out` of its own: saves a copy.
        resize.out(crop, [size, size], False, None, None, out=out)
        return
    resized = crop if (width, height) == (across, down) else resize(crop, [down, across], False, None, None)
    square = resized[..., y : y + size, x : x + size]
    out.copy_(square.flip(-1) if flip else square)
