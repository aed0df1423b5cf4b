"""Any image that Pillow opened as upright RGB pixels."""

import numpy as np
from PIL import Image, ImageChops, ImageOps


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, as stored."""
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for inverted, as Adobe writes them; without Adobe's marker it is not.
        image = ImageChops.invert(image)
    if image.mode.startswith("I"):  # 16 bits a pixel: keep the high byte, where a plain conversion would clip to white
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, turned as its EXIF orientation says."""
    transposed = ImageOps.exif_transpose(image)
    transposed.format = image.format  # a transposed image forgets where it came from, which its colours depend on
    return to_rgb(transposed)
