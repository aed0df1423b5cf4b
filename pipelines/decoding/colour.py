"""Any image that Pillow opened as upright RGB pixels."""

import numpy as np
from PIL import Image, ImageChops, ImageOps


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, as stored."""
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for inverted, as Adobe writes them; without Adobe's marker it is not.
        image = ImageChops.invert(image)
    if image.mode.startswith(("I", "F")):  # which a plain conversion would clip to white, or to black
        return Image.fromarray(_in_bytes(np.asarray(image))).convert("RGB")
    return image.convert("RGB")


def _in_bytes(pixels: np.ndarray) -> np.ndarray:
    """Gray pixels of more than 8 bits as uint8, scaled by what their type can show: integers 0 to 65,535, floats 0 to 1.

    ValueError when that cannot be their scale, as of 12 bits in 16, which would come out black.
    """
    if not pixels.size or not pixels.any():
        return np.zeros(pixels.shape, np.uint8)
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # neither is a number beyond all others, or none
            raise ValueError(
                f"its floating-point pixels run from {low:g} to {high:g}, not from 0 to 1; save it with 8 bits"
            )
        return (pixels * 255 + 0.5).astype(np.uint8)
    if low < 0 or high > 65535 or high < 4096:
        raise ValueError(f"its pixels run from {low:,} to {high:,}, not over 16 bits; save it with 8 bits")
    return (pixels >> 8).astype(np.uint8)


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, turned as its EXIF orientation says."""
    transposed = ImageOps.exif_transpose(image)
    transposed.format = image.format  # a transposed image forgets where it came from, which its colours depend on
    return to_rgb(transposed)
