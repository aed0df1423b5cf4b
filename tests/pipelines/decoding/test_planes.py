"""Planes: the pixels of the JPEG that they were made of, to the bit, whatever box is cut out; hostile headers are refused."""

import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from pipelines.datasets import y4m
from pipelines.datasets.image_headers import Flag, probe_bytes
from pipelines.decoding import fast_decode, jpeg_planes
from pipelines.decoding.decode import decode, empty_images
from pipelines.support.errors import DataError

SIZES = ((160, 120), (97, 131), (64, 48), (33, 17), (5, 3), (4, 4), (2, 7), (1, 40), (40, 1), (1, 1))
FORMS = {
    "420": {"subsampling": 2}, "422": {"subsampling": 1}, "444": {"subsampling": 0}, "gray": {},
    "progressive": {"progressive": True}, "restarts": {"restart_marker_blocks": 3}, "coarse": {"quality": 5},
}  # fmt: skip


@pytest.fixture(scope="module")
def compiled():
    found, reason = fast_decode.library()
    assert found is not None, reason
    return found


def jpeg(width: int, height: int, form: str, seed: int = 0) -> bytes:
    """Smooth colours with noise over them, of a size and a form."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    image = Image.fromarray((pixels + generator.integers(-20, 20, pixels.shape)).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    (image.convert("L") if form.startswith("gray") else image).save(file, "JPEG", **{"quality": 90} | FORMS[form])
    return file.getvalue()


def planes_of(data: bytes) -> bytes:
    made, why = jpeg_planes.planes(np.frombuffer(data, np.uint8), probe_bytes(data))
    assert made is not None, why
    return bytes(made)


def cut(compiled, data: bytes, box, view, size: int, flip: bool, bicubic: bool, keep: int = 0):
    """The pixels (3, size, size), or None when the decoder leaves them alone."""
    out = empty_images(1, size)
    done = fast_decode.carry_out(
        compiled, [np.frombuffer(data, np.uint8)], np.array([len(data)]), np.array([box]), np.array([flip]), out, keep,
        views=np.array([view]), bicubic=bicubic,
    )  # fmt: skip
    return out[0] if done[0] else None


@pytest.mark.parametrize("boxes", [40, pytest.param(10_000 // len(FORMS), marks=pytest.mark.soak)])
@pytest.mark.parametrize("form", FORMS)
def test_any_box_has_the_pixels_of_the_jpeg_to_the_bit(compiled, form, boxes):
    generator = np.random.default_rng(len(form))
    files = [(size, jpeg(*size, form)) for size in SIZES]
    pairs = [(size, data, planes_of(data)) for size, data in files]
    for _ in range(boxes):
        (width, height), encoded, planes = pairs[generator.integers(len(pairs))]
        left, top = generator.integers(width), generator.integers(height)
        box = (left, top, generator.integers(1, width - left + 1), generator.integers(1, height - top + 1))
        size = int(generator.choice([1, 3, 8, 17, 32, 64, 150]))
        across, down = size + generator.integers(0, size, 2, endpoint=True)
        view = [
            (size, size, 0, 0),
            (across, down, generator.integers(across - size + 1), generator.integers(down - size + 1)),
        ]
        how = (view[generator.integers(2)], size, bool(generator.integers(2)), bool(generator.integers(2)))
        wanted = cut(compiled, encoded, box, *how)
        assert torch.equal(cut(compiled, planes, box, *how), wanted), (form, width, height, box, how)


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_picture_has_the_pixels_of_the_jpeg_to_the_bit(form):
    for size in SIZES:
        data = jpeg(*size, form)
        assert torch.equal(decode(planes_of(data)), decode(data)), size


def test_a_gray_jpeg_may_give_its_one_plane_any_sampling(compiled):
    data = bytearray(jpeg(97, 131, "gray"))
    data[data.index(b"\xff\xc0") + 11] = 0x22
    how = ((3, 5, 90, 120), (64, 64, 0, 0), 64, False, False)
    assert torch.equal(cut(compiled, planes_of(bytes(data)), *how), cut(compiled, bytes(data), *how))


def test_of_a_box_six_times_the_square_a_jpeg_is_decoded_at_a_scale_and_planes_wholly(compiled):
    data = jpeg(800, 700, "420")
    planes, whole = planes_of(data), ((0, 0, 800, 700), (64, 64, 0, 0), 64, False, False)
    assert torch.equal(cut(compiled, planes, *whole, keep=3), cut(compiled, data, *whole, keep=0))
    scaled = cut(compiled, data, *whole, keep=3).double()
    error = (scaled - cut(compiled, planes, *whole, keep=3).double()).square().mean().item()
    assert 0 < error < 255**2 / 10**4  # 40 dB
    below = ((7, 9, 383, 383), (64, 64, 0, 0), 64, True, False)
    assert torch.equal(cut(compiled, planes, *below, keep=3), cut(compiled, data, *below, keep=3))


def test_what_has_no_such_planes_stays_as_it_is_and_says_why(odd_images, bad_images):
    pixels = np.asarray(Image.open(io.BytesIO(odd_images["plain"])))
    unusual = {form: simplejpeg.encode_jpeg(pixels, 90, "RGB", form) for form in ("411", "440")}
    adobe = io.BytesIO()
    Image.fromarray(pixels).save(adobe, "JPEG", keep_rgb=True)
    damaged = bytearray(odd_images["restarts"])
    at = damaged.rindex(b"\xff\xd0")
    del damaged[at - 320 : at - 20]
    first_scans = odd_images["progressive"]
    scans = [at for at in range(len(first_scans) - 1) if first_scans[at : at + 2] == b"\xff\xda"]
    # The chain of segments of the third scan begins with its tables.
    tables = first_scans.rindex(b"\xff\xc4", 0, scans[2])
    cases = {
        "CMYK": odd_images["cmyk"],
        "not JPEG (--quality makes it one)": odd_images["png"],
        "turned by EXIF": odd_images["rotated6"],
        "with a chroma subsampling that y4m has not (4:1:1, 4:4:0, ...)": unusual["411"],
        "not gray or YCbCr": adobe.getvalue(),
        "decoded with warnings": bytes(damaged),
        "progressive and without their last scans": first_scans[:tables] + b"\xff\xd9",
        "without an end marker at their end": odd_images["plain"] + b"\0",
        "planes already": planes_of(odd_images["plain"]),
    }
    for reason, data in cases.items():
        assert jpeg_planes.planes(np.frombuffer(data, np.uint8), probe_bytes(data)) == (None, reason)
    data = unusual["440"]
    assert jpeg_planes.planes(np.frombuffer(data, np.uint8), probe_bytes(data))[1].startswith("with a chroma")


def frame(width: int, height: int, chroma: str) -> bytes:
    covered = {"420jpeg": (2, 2), "422": (2, 1), "444": (1, 1), "mono": (0, 0)}[chroma]
    picture = y4m.Picture(width, height, *covered, 0)
    return bytes(np.random.default_rng(0).integers(0, 256, picture.size, np.uint8))


SOUND = {
    "ours": b"YUV4MPEG2 W5 H3 F1:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL\nFRAME\n",
    "ffmpeg's": b"YUV4MPEG2 W5 H3 F25:1 Ip A0:0 C420jpeg XYSCSS=420JPEG XCOLORRANGE=FULL\nFRAME\n",
    "shortest": b"YUV4MPEG2 W5 H3\nFRAME\n",
    "zeros": b"YUV4MPEG2 H0003 W00005 I?\nFRAME\n",
}
HOSTILE = {
    "no end": b"YUV4MPEG2 W5 H3",
    "no frame": b"YUV4MPEG2 W5 H3\n",
    "frame with words": b"YUV4MPEG2 W5 H3\nFRAME Ip\n",
    "no width": b"YUV4MPEG2 H3\nFRAME\n",
    "no value": b"YUV4MPEG2 W5 H3 C\nFRAME\n",
    "zero": b"YUV4MPEG2 W0 H3\nFRAME\n",
    "negative": b"YUV4MPEG2 W-5 H3\nFRAME\n",
    "sign": b"YUV4MPEG2 W+5 H3\nFRAME\n",
    "large": b"YUV4MPEG2 W65536 H3\nFRAME\n",
    "overflow": b"YUV4MPEG2 W4294967301 H3\nFRAME\n",
    "twice": b"YUV4MPEG2 W5 H3 W5\nFRAME\n",
    "two blanks": b"YUV4MPEG2 W5  H3\nFRAME\n",
    "last blank": b"YUV4MPEG2 W5 H3 \nFRAME\n",
    "no blank": b"YUV4MPEG2W5 H3\nFRAME\n",
    "letter": b"YUV4MPEG2 W5 H3 Q1\nFRAME\n",
    "small letter": b"YUV4MPEG2 w5 H3 W5\nFRAME\n",
    "zero byte": b"YUV4MPEG2 W5\0 H3\nFRAME\n",
    "colour space": b"YUV4MPEG2 W5 H3 C420p10\nFRAME\n",
    "siting": b"YUV4MPEG2 W5 H3 C420mpeg2\nFRAME\n",
    "range": b"YUV4MPEG2 W5 H3 XCOLORRANGE=LIMITED\nFRAME\n",
    "interlaced": b"YUV4MPEG2 W5 H3 It\nFRAME\n",
    "version": b"YUV4MPEG W5 H3\nFRAME\n",
    "long": b"YUV4MPEG2 W5 H3 X" + 250 * b"x" + b"\nFRAME\n",
}


@pytest.mark.parametrize("name", [*SOUND, *HOSTILE])
def test_headers_are_read_strictly_and_alike_in_python_and_c(compiled, name):
    head = (SOUND | HOSTILE)[name]
    data, sound = head + frame(5, 3, "420jpeg"), name in SOUND
    ours = cut(compiled, data, (0, 0, 5, 3), (4, 4, 0, 0), 4, False, False)
    assert (ours is not None) == sound
    if sound:
        assert probe_bytes(data).flags == Flag.NOT_JPEG | Flag.PLANES
        assert decode(data).shape == (3, 3, 5)
    else:
        with pytest.raises(DataError):
            probe_bytes(data)
    for wrong in (data[:-1], data + b"\0", data + b"FRAME\n" + frame(5, 3, "420jpeg")):
        assert cut(compiled, wrong, (0, 0, 5, 3), (4, 4, 0, 0), 4, False, False) is None
        with pytest.raises(DataError):
            probe_bytes(wrong)


@pytest.mark.parametrize("chroma", ["420jpeg", "422", "444", "mono"])
def test_boxes_outside_the_picture_are_left_alone(compiled, chroma):
    data = f"YUV4MPEG2 W9 H7 C{chroma}\nFRAME\n".encode() + frame(9, 7, chroma)
    assert cut(compiled, data, (0, 0, 9, 7), (4, 4, 0, 0), 4, False, False) is not None
    for box in ((0, 0, 10, 7), (0, 0, 9, 8), (-1, 0, 3, 3), (8, 6, 2, 1), (0, 0, 0, 3)):
        assert cut(compiled, data, box, (4, 4, 0, 0), 4, False, False) is None


def test_a_video_says_that_it_is_one():
    two = SOUND["ours"] + frame(5, 3, "420jpeg") + b"FRAME\n" + frame(5, 3, "420jpeg")
    with pytest.raises(DataError, match="several frames"):
        probe_bytes(two)


def test_pillow_opens_them_by_name_and_from_memory(tmp_path):
    for form in ("420", "gray"):
        data = jpeg(33, 17, form)
        file = tmp_path / f"{form}.y4m"
        file.write_bytes(planes_of(data))
        with Image.open(file) as ours, Image.open(io.BytesIO(data)) as theirs:
            assert (ours.format, ours.size, ours.mode) == ("YUV4MPEG2", theirs.size, theirs.mode)
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("form", ["420", "422", "444", "gray"])
def test_ffmpeg_reads_them_as_one_frame_of_the_full_range(tmp_path, form):
    """The FFmpeg within OpenCV, which FFCV needs; it enlarges halved chroma in steps."""
    import cv2

    data, file = jpeg(97, 131, form), tmp_path / "picture.y4m"
    file.write_bytes(planes_of(data))
    video = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    there, shown = video.read()
    assert (there, video.read()[0]) == (True, False)
    error = np.square(shown[..., ::-1].astype(float) - decode(data).permute(1, 2, 0).numpy()).mean()
    assert 10 * np.log10(255**2 / (error + 1e-9)) > (28 if form in ("420", "422") else 70)
