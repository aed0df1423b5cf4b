"""Windows: JPEGs rewritten without loss, and their parts that are cut out before any decoder: the same pixels to the bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipelines.datasets.image_headers import Flag, probe_bytes
from pipelines.decoding import fast_decode
from pipelines.decoding.decode import decode, empty_images
from pipelines.preparing import windows

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "gray", "gray of 2x2 units")


@pytest.fixture(scope="module")
def compiled():
    found, reason = fast_decode.library()
    assert found is not None, reason
    return found


def photo(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    blocks = generator.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + generator.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, sampling: str = "4:2:0", **settings) -> bytes:
    if sampling in ("4:4:0", "4:1:1"):
        pixels = np.ascontiguousarray(np.asarray(image))
        return simplejpeg.encode_jpeg(pixels, settings.get("quality", 90), "RGB", sampling.replace(":", ""))
    file = io.BytesIO()
    if sampling.startswith("gray"):
        image.convert("L").save(file, "JPEG", **settings)
    else:
        image.save(file, "JPEG", subsampling=sampling, **settings)
    data = bytearray(file.getvalue())
    if sampling == "gray of 2x2 units":  # the same data: of one component a unit is one block, whatever its factors
        data[frame(data) + 11] = 0x22
    return bytes(data)


def frame(data: bytes) -> int:
    """Where the frame header begins."""
    at = 2
    while data[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def rewritten(data: bytes) -> bytes:
    made = windows.rewrite(np.frombuffer(data, np.uint8), probe_bytes(data))
    assert made.data is not None, made.why
    return bytes(made.data)


def carried_out(compiled, data: bytes, boxes, side: int, **how):
    """Pixels (n, 3, side, side) of boxes of one JPEG, zeros where it is left alone."""
    out, encoded = empty_images(len(boxes), side).zero_(), np.frombuffer(data, np.uint8)
    many = (
        [encoded] * len(boxes),
        np.full(len(boxes), len(data)),
        np.asarray(boxes, np.int32),
        np.zeros(len(boxes), bool),
    )
    done = fast_decode.carry_out(compiled, *many, out, **how)
    out[~np.array(done)] = 0
    return out, done


def drawn_boxes(generator: np.random.Generator, count: int, width: int, height: int) -> list[tuple[int, int, int, int]]:
    sizes = zip(generator.integers(1, width + 1, count).tolist(), generator.integers(1, height + 1, count).tolist())
    return [(int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1)), w, h) for w, h in sizes]


def compare(compiled, generator: np.random.Generator, sampling: str, count: int) -> None:
    """`count` boxes of one drawn image: with windows, and with markers of any interval, as without."""
    width, height = generator.integers(1, 400, 2).tolist()
    width, height = [(width, height), (width, height), (width, height), (1, height), (width, 1)][generator.integers(5)]
    image = photo(generator, width, height)
    settings = {"quality": int(generator.choice([30, 85, 97])), "optimize": bool(generator.integers(2))}
    progressive = {"progressive": True} if not generator.integers(4) and sampling != "gray of 2x2 units" else {}
    plain = jpeg(image, sampling, **settings, **progressive)
    others = [rewritten(plain)]
    if not progressive and sampling not in ("4:4:0", "4:1:1"):
        every = int(generator.integers(1, 30))
        others.append(jpeg(image, sampling, **settings, restart_marker_blocks=every))
        others.append(jpeg(image, sampling, **settings, restart_marker_rows=1 + every % 3))
    side, orientation = int(generator.choice([1, 7, 16, 33, 96])), int(generator.choice([1, 1, 1, *range(2, 9)]))
    how = {"keep": int(generator.choice([0, 1, 3])), "orientation": orientation, "bicubic": bool(generator.integers(2))}
    if generator.integers(2):  # a square of a larger whole
        across, down = side + generator.integers(30, size=2)
        place = [across, down, generator.integers(across - side + 1), generator.integers(down - side + 1)]
        how["views"] = np.tile(np.array(place), (count, 1))
    shown = (width, height) if orientation < 5 else (height, width)
    boxes = drawn_boxes(generator, count, *shown)
    expected, done = carried_out(compiled, plain, boxes, side, **how)
    assert all(done)
    for other in others:
        found, done = carried_out(compiled, other, boxes, side, **how)
        assert all(done)
        assert found.equal(expected), (width, height, sampling, how)


@pytest.mark.parametrize("boxes", [40, pytest.param(1500, marks=pytest.mark.soak)])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_box_has_the_same_pixels_with_windows_and_with_any_markers(compiled, sampling: str, boxes: int) -> None:
    generator = np.random.default_rng(SAMPLINGS.index(sampling))
    for _ in range(boxes // 10):
        compare(compiled, generator, sampling, 10)


def cut(compiled, data: bytes, box, side: int, path) -> tuple[bytes, list[int]]:
    """What another decoder is handed of a JPEG, and the box in it."""
    path.write_bytes(data)
    name = np.frombuffer(bytes(path) + b"\0", np.uint8)
    items = np.zeros(1, fast_decode.ITEM)
    items["path"], items["size"], items["file"], items["modified"] = name.ctypes.data, len(data), -1, -1
    items["left"], items["top"], items["width"], items["height"] = box
    items["across"] = items["down"] = side
    items["orientation"] = 1
    (made,) = fast_decode.cut_items(compiled, items, side)
    return made.tobytes(), [int(items[name][0]) for name in ("left", "top", "width", "height")]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_what_is_cut_out_is_a_smaller_jpeg_with_the_same_pixels(compiled, tmp_path, sampling: str) -> None:
    """For other decoders: here Pillow's, which smooths colours."""
    generator = np.random.default_rng(3)
    data = rewritten(jpeg(photo(generator, 320, 211), sampling, quality=90))
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for box in [(0, 0, 50, 40), (270, 171, 50, 40), *drawn_boxes(generator, 30, 320, 211)]:
        made, (left, top, width, height) = cut(compiled, data, box, 32, tmp_path / "one.jpg")
        pixels = np.asarray(Image.open(io.BytesIO(made)).convert("RGB"))
        assert (
            pixels[top : top + height, left : left + width] == whole[box[1] : box[1] + height, box[0] : box[0] + width]
        ).all()
        assert len(made) <= len(data)
        assert made == data or made.endswith(b"\xff\xd9")
    assert len(cut(compiled, data, (100, 100, 20, 20), 32, tmp_path / "one.jpg")[0]) < len(data) / 3


def test_rewriting_keeps_coefficients_markers_and_exif(odd_images) -> None:
    for name in ("plain", "gray", "progressive", "full_chroma", "half_chroma", "restarts", "wide_tables", "rotated6"):
        data = odd_images[name]
        made = rewritten(data)
        assert decode(made).equal(decode(data))
        before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(made))
        assert {key: value for key, value in after.info.items() if not key.startswith("progress")} == {
            key: value for key, value in before.info.items() if not key.startswith("progress")
        }
        assert after.quantization == before.quantization
        assert not probe_bytes(made).flags & Flag.PROGRESSIVE
        assert rewritten(made) == made


def test_a_row_is_divided_near_every_fourth_unit() -> None:
    for width, interval in ((512, 4), (500, 4), (496, 1), (80, 5), (96, 3), (144, 3), (16, 1), (112, 7), (48, 3)):
        data = rewritten(jpeg(Image.new("RGB", (width, 40)), "4:2:0"))
        at = data.index(b"\xff\xdd")
        assert int.from_bytes(data[at + 4 : at + 6], "big") == interval, width


def test_what_cannot_be_rewritten_stays_and_says_why(odd_images, bad_images) -> None:
    image = photo(np.random.default_rng(0), 60, 50)
    sound, progressive = jpeg(image), jpeg(image, progressive=True)
    # The last scan of a progressive JPEG left out: it decodes, and smoother than its coefficients say.
    last = progressive.rindex(b"\xff\xda")
    wrong = {
        "damaged": sound[:-40] + sound[-2:],
        "CMYK": odd_images["cmyk"],
        "no JPEG": odd_images["png"],
        "incomplete progressive": progressive[:last] + progressive[-2:],
        "not ending where it should": sound + b"more",
    }
    for why, data in wrong.items():
        made = windows.rewrite(np.frombuffer(data, np.uint8), probe_bytes(data))
        assert (made.data, made.why) == (None, why)
    twelve = bytearray(sound)
    twelve[frame(sound) + 4] = 12
    arithmetic = bytearray(sound)
    arithmetic[frame(sound) + 1] = 0xC9
    for why, data in (("12-bit", bytes(twelve)), ("arithmetic-coded", bytes(arithmetic))):
        assert windows.rewrite(np.frombuffer(data, np.uint8), probe_bytes(data)).why == why


def test_markers_that_do_not_fit_are_decoded_whole(compiled, tmp_path) -> None:
    """Swapped, doubled, left out, too many, of another interval: what libjpeg makes of the whole is what comes."""
    generator = np.random.default_rng(5)
    image = photo(generator, 320, 200)
    data = rewritten(jpeg(image, quality=90))
    markers = [at for at in range(frame(data), len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
    interval = data.index(b"\xff\xdd")
    boxes = drawn_boxes(generator, 12, 320, 200)
    whole = [(0, 0, 320, 200)]
    for _ in range(40):
        broken, at = bytearray(data), int(generator.choice(markers))
        kind = generator.integers(6)
        if kind == 0:
            broken[at + 1] = 0xD0 + int(generator.integers(8))
        elif kind == 1:
            del broken[at : at + 2]
        elif kind == 2:
            broken[at:at] = broken[at : at + 2]
        elif kind == 3:
            broken[interval + 5] = int(generator.integers(0, 30))
        elif kind == 4:
            broken[at:-2] = b""
        else:
            broken[at + 1] = int(generator.choice([0xD9, 0xC4, 0xFF, 0x01]))
        if bytes(broken) != data:
            for box in boxes:
                assert cut(compiled, bytes(broken), box, 48, tmp_path / "one.jpg")[0] == bytes(broken), kind
            carried_out(compiled, bytes(broken), boxes, 48)
            carried_out(compiled, bytes(broken), whole, 48)
    unnumbered = bytearray(data)
    for at in markers:
        unnumbered[at + 1] = 0xD0  # libjpeg follows them, with warnings
    for box in boxes:
        assert cut(compiled, bytes(unnumbered), box, 48, tmp_path / "one.jpg")[0] == bytes(unnumbered)
    expected = carried_out(compiled, bytes(unnumbered), whole, 48)
    assert expected[1] == [True]
