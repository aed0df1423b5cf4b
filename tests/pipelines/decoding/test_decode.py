"""Decoding what JPEGs are in the wild, upright and in the right colours; crops and resizes against Pillow's."""

import contextlib
import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pipelines import DataError
from pipelines.datasets.image_headers import Flag, exif_orientation, probe_bytes
from pipelines.decoding.decode import crop_resize, decode


def pillow(data: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def psnr(first, second) -> float:
    error = np.mean((np.asarray(first, np.float64) - np.asarray(second, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else 99.0


ODD = ["plain", "gray", "progressive", "full_chroma", "half_chroma", "restarts", "wide_tables", "png"]
ODD += [f"rotated{orientation}" for orientation in range(1, 9)]


@pytest.mark.parametrize("name", ODD)
def test_odd_images_decode_as_pillow_decodes_them(odd_images, photos, name):
    image = decode(odd_images[name])
    assert image.dtype == torch.uint8
    assert tuple(image.shape) == (3, photos[4].height, photos[4].width)
    pixels = image.permute(1, 2, 0).numpy()
    assert psnr(pixels, pillow(odd_images[name])) > 50
    wanted = photos[4].convert("L").convert("RGB") if name == "gray" else photos[4]
    assert psnr(pixels, wanted) > 28  # what quality 90 leaves of the original


def test_cmyk_decodes_to_the_colours_it_was_made_from(odd_images, photos):
    assert psnr(decode(odd_images["cmyk"]).permute(1, 2, 0), photos[4]) > 25


def test_cmyk_with_and_without_adobes_marker_means_the_same_colours(odd_images):
    data = odd_images["cmyk"]
    start = data.index(b"\xff\xee")
    plain = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    inverted = 255 - decode(data).to(torch.int16)
    # Adobe stores inverted ink: the same numbers without the marker are the other way round.
    reference = np.asarray(Image.open(io.BytesIO(data)))
    assert probe_bytes(plain).flags == Flag.CMYK
    assert decode(plain).shape == inverted.shape
    ink = np.asarray(Image.fromarray(255 - reference, "CMYK").convert("RGB"))
    assert psnr(decode(plain).permute(1, 2, 0), ink) > 50


def test_sixteen_bit_gray_keeps_its_brightness():
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    assert np.abs(decode(file.getvalue())[0].numpy().astype(int) - (ramp >> 8)).max() <= 1


def encoded(pixels: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_in_every_format(form):
    pixels = decode(encoded((RAMP * 65535).astype(np.uint16), form))[1].numpy().astype(int)
    assert np.abs(pixels - RAMP * 255).max() <= 1


def test_floats_are_scaled_from_one():
    pixels = decode(encoded(RAMP.astype(np.float32), "TIFF"))[2].numpy().astype(int)
    assert np.abs(pixels - RAMP * 255).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "form", "message"),
    [
        ((RAMP * 4095).astype(np.uint16), "PNG", "its pixels run from 0 to 4,095, not over 16 bits"),
        ((RAMP * 9e6).astype(np.int32), "TIFF", "its pixels run from 0 to 9,000,000, not over 16 bits"),
        (((RAMP - 0.5) * 9000).astype(np.int32), "TIFF", "its pixels run from -4,500 to 4,500, not over 16 bits"),
        ((RAMP * 255).astype(np.float32), "TIFF", "its floating-point pixels run from 0 to 255, not from 0 to 1"),
        ((RAMP * 65535).astype(np.float32), "TIFF", "its floating-point pixels run from 0 to 65535, not from 0 to 1"),
        (np.where(RAMP > 0.5, np.nan, 0.1).astype(np.float32), "TIFF", "its floating-point pixels run from nan to nan"),
    ],
)
def test_pixels_of_an_unknown_scale_are_refused_and_not_made_black_or_white(pixels, form, message):
    with pytest.raises(DataError, match=f"it cannot be decoded: {message}"):
        decode(encoded(pixels, form))


def test_black_is_black_at_any_depth():
    for pixels in (np.zeros((8, 8), np.uint16), np.zeros((8, 8), np.float32)):
        assert not decode(encoded(pixels, "TIFF")).any()


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_orientation_kept_as_a_long_turns_the_image(photos, order):
    head = b"II*\0" if order == "<" else b"MM\0*"
    tiff = head + struct.pack(f"{order}IHHHIII", 8, 1, 0x0112, 4, 1, 6, 0)
    file = io.BytesIO()
    photos[4].save(file, "JPEG", exif=b"Exif\0\0" + tiff)
    header = probe_bytes(file.getvalue())
    assert (header.orientation, header.width, header.height) == (6, photos[4].height, photos[4].width)
    assert psnr(decode(file.getvalue()).permute(1, 2, 0), pillow(file.getvalue())) > 50


def test_what_cannot_be_decoded_says_why(bad_images):
    expected = {"empty": "empty", "truncated": "cannot be decoded|truncated", "header_only": "runcated"}
    for name, data in bad_images.items():
        with pytest.raises(DataError, match=expected.get(name, "no image that can be read")):
            decode(data)


def test_every_cut_of_a_jpeg_is_an_error(odd_images):
    data = odd_images["progressive"]
    for cut in [*range(0, 700, 13), *range(700, len(data), 4001)]:
        with pytest.raises(DataError):
            decode(data[:cut])


def test_an_image_that_claims_to_be_enormous_is_refused_unread(odd_images):
    data = bytearray(odd_images["plain"])
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(
        DataError, match="the image is 65535 x 65535 pixels, more than the 178,956,970 that are decoded"
    ):
        decode(bytes(data))


def test_damaged_bytes_never_crash(odd_images):
    generator = np.random.default_rng(0)
    for name in ("plain", "png", "rotated6"):
        for _ in range(20):
            data = bytearray(odd_images[name])
            for place in generator.integers(0, min(len(data), 900), 12):
                data[place] = int(generator.integers(256))
            with contextlib.suppress(DataError):
                assert decode(bytes(data)).shape[0] == 3


@pytest.mark.parametrize(
    "tiff", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff\0\0", b"MM\0*\0\0\0\x08\0\x09", b"XX*\0" + bytes(20)]
)
def test_damaged_exif_counts_as_upright(tiff):
    assert exif_orientation(tiff) == 1


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [32, 224, 299])
def test_crop_and_resize_match_pillow(photos, size, flip):
    results = []
    for number, photo in enumerate(photos[:12]):
        left, top, width, height = number, 2 * number, photo.width - 3 * number, photo.height - 10 * number
        image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
        ours = crop_resize(image, (left, top, width, height), size, flip)
        theirs = photo.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
        theirs = ImageOps.mirror(theirs) if flip else theirs
        results.append(psnr(ours.permute(1, 2, 0), theirs))
    assert min(results) > 50


def test_a_box_outside_the_image_is_an_error():
    with pytest.raises(DataError, match=r"crop box 5 x 5 at \(6, 0\) does not lie in the 10 x 10 image"):
        crop_resize(torch.zeros(3, 10, 10, dtype=torch.uint8), (6, 0, 5, 5), 4)
