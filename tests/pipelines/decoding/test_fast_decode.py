"""The compiled decoder: the pixels of a full decode, whatever the box, size and form of the JPEG; errors are left alone."""

import io
import subprocess
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import decoder_fuzzing
from pipelines import TrainPlan, build_loader, open_dataset
from pipelines.decoding import build, fast_decode
from pipelines.decoding.decode import crop_resize, decode, empty_images
from pipelines.preparing.beton_writer import write_beton


@pytest.fixture(scope="module")
def compiled():
    found, reason = fast_decode.library()
    assert found is not None, reason
    return found


def carried_out(compiled, data: bytes, box, size: int, flip: bool = False, keep: int = 0, orientation: int = 1):
    """The pixels (3, size, size), or None when the decoder leaves the sample alone."""
    out = empty_images(1, size)
    encoded = np.frombuffer(data, np.uint8)
    done = fast_decode.carry_out(
        compiled, [encoded], np.array([len(data)]), np.array([box], np.int32), np.array([flip]), out, keep, orientation
    )
    return out[0] if done[0] else None


def psnr(first, second) -> float:
    error = (first.double() - second.double()).square().mean().item()
    return 10 * np.log10(255**2 / error) if error else 99.0


@pytest.mark.parametrize(
    "name", ["plain", "gray", "progressive", "full_chroma", "half_chroma", "restarts", "wide_tables"]
)
def test_a_box_as_large_as_the_output_gives_the_pixels_of_a_full_decode(compiled, odd_images, name):
    """No resize comes between: every difference would be one of the partial decode."""
    whole = decode(odd_images[name])
    _, height, width = whole.shape
    generator = np.random.default_rng(0)
    for side in (1, 2, 7, 16, 17, 64, 200):
        corners = [(0, 0), (width - side, height - side), (16, 16), (15, 17)]
        corners += [
            (int(generator.integers(width - side + 1)), int(generator.integers(height - side + 1))) for _ in range(6)
        ]
        for left, top in corners:
            ours = carried_out(compiled, odd_images[name], (left, top, side, side), side)
            assert (ours.int() - whole[:, top : top + side, left : left + side].int()).abs().max() <= 1


@pytest.mark.parametrize("size", [1, 2, 31, 96, 299, 640])
def test_resizing_is_that_of_torch(compiled, photos, odd_images, size):
    image = decode(odd_images["plain"])
    _, height, width = image.shape
    boxes = [
        (0, 0, width, height),
        (3, 5, 1, 1),
        (10, 0, 2, height),
        (0, 7, width, 3),
        (21, 34, 111, 77),
        (1, 1, 40, 200),
    ]
    for box in boxes:
        for flip in (False, True):
            ours, theirs = (
                carried_out(compiled, odd_images["plain"], box, size, flip),
                crop_resize(image, box, size, flip),
            )
            # Of a single pixel, rounded once here and twice there, two colours that differ by 1 make 49.9 dB.
            assert psnr(ours, theirs) > 50 or (size == 1 and (ours.int() - theirs.int()).abs().max() <= 1)


@pytest.mark.parametrize("size", [16, 24, 48, 64, 100])
def test_reductions_by_the_decoder_keep_the_quality(compiled, photo_set, size):
    dataset = open_dataset(photo_set, "train", progress=False)
    ratios = []
    for index in range(32):
        data = dataset.read(index).tobytes()
        image = decode(data)
        box = (0, 0, image.shape[2], image.shape[1])
        ours = carried_out(compiled, data, box, size, keep=fast_decode._KEEP)
        ratios.append(psnr(ours, crop_resize(image, box, size)))
    assert np.median(ratios) > 50
    assert min(ratios) > 40


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("flip", [False, True])
def test_photos_that_exif_turns_come_upright(compiled, odd_images, orientation, flip):
    """A box as large as the output, which shows every pixel's place, and one that is resized."""
    data = odd_images[f"rotated{orientation}"]
    whole = decode(data)
    for left, top, side in ((0, 0, 64), (17, 30, 101), (whole.shape[2] - 40, whole.shape[1] - 40, 40)):
        ours = carried_out(compiled, data, (left, top, side, side), side, flip, orientation=orientation)
        theirs = whole[:, top : top + side, left : left + side]
        assert (ours.int() - (theirs.flip(2) if flip else theirs).int()).abs().max() <= 1
    box = (5, 9, 150, 60)
    ours = carried_out(compiled, data, box, 96, flip, orientation=orientation)
    assert psnr(ours, crop_resize(whole, box, 96, flip)) > 50
    box = (whole.shape[2] - 149, 0, 150, 60)
    assert carried_out(compiled, data, box, 96, orientation=orientation) is None


@pytest.mark.parametrize("backend", ["native", "ffcv"])
def test_photos_that_exif_turns_stay_on_the_compiled_path(photos, tmp_path, monkeypatch, backend):
    for number in range(8):
        tags = Image.Exif()
        tags[0x0112] = number + 1
        (tmp_path / "folder/train/a").mkdir(parents=True, exist_ok=True)
        photos[number].save(tmp_path / f"folder/train/a/{number}.jpg", "JPEG", quality=90, exif=tags)
    folder = open_dataset(tmp_path / "folder", "train", progress=False)
    write_beton(partial(open_dataset, tmp_path / "folder", "train", progress=False), tmp_path / "train.beton")
    beton = open_dataset(tmp_path, "train", progress=False)
    monkeypatch.setattr("pipelines.loading.singly.Singly.carry_out", lambda *_: pytest.fail("left over"))
    dataset = folder if backend == "native" else beton
    plan = TrainPlan(8, 8, seed=1)
    with build_loader(dataset, plan, backend, batch_size=8, resolution=64, workers=2) as loader:
        (batch,) = loader
    boxes, flips = (
        plan.boxes(0, batch.indices.numpy(), dataset.sizes(batch.indices.numpy())),
        plan.flips(0, batch.indices.numpy()),
    )
    for image, index, box, flip in zip(batch.images, batch.indices.tolist(), boxes.tolist(), flips.tolist()):
        assert psnr(image, crop_resize(decode(folder.read(index)), box, 64, flip)) > 45


@pytest.mark.parametrize("size", [128, 224, 299])
def test_saturated_text_is_near_pillows(compiled, size):
    """Sharp edges between colours at the corners of RGB: JPEG's planes hold colours there that no screen shows. Cut off only
    after the resize, as they once were, they cost 5 to 6 dB: a median of 33 to 37 and a worst of 29 to 33."""
    near = []
    for number in range(16):
        image = Image.new("RGB", (400, 300), ("white", "yellow", "black", "lime")[number % 4])
        draw = ImageDraw.Draw(image)
        for line in range(21):
            colour = ("red", "blue", "magenta", "cyan")[(number + line) % 4]
            draw.text((3 + 5 * number, 14 * line), 2 * "Saturated text of every colour 0123456789 ", fill=colour)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        box = (7 * number, 3 * number, 280, 250)
        corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
        wanted = np.asarray(
            Image.open(file).convert("RGB").crop(corners).resize((size, size), Image.Resampling.BILINEAR)
        )
        near.append(
            psnr(carried_out(compiled, file.getvalue(), box, size), torch.from_numpy(wanted.copy()).permute(2, 0, 1))
        )
    assert np.median(near) > 38
    assert min(near) > 35


def test_what_it_cannot_decode_is_left_alone(compiled, odd_images, bad_images):
    for data in (*bad_images.values(), odd_images["png"], odd_images["cmyk"]):
        if data:  # the lowest rows: what is cut off is found out when it is needed
            assert carried_out(compiled, data, (0, 290, 4, 4), 4) is None
    assert carried_out(compiled, odd_images["plain"], (0, 0, 10**6, 4), 4) is None
    assert carried_out(compiled, odd_images["plain"], (-1, 0, 4, 4), 4) is None


def test_files_are_read_where_they_have_a_path(compiled, odd_images, tmp_path):
    data, box = odd_images["plain"], np.array([(5, 6, 200, 100)] * 4, np.int32)
    (tmp_path / "good.jpg").write_bytes(data)
    (tmp_path / "grown.jpg").write_bytes(data + b"x")
    names = ["good.jpg", "grown.jpg", "none.jpg"]
    out = empty_images(4, 50)
    encoded = [*(str(tmp_path / name).encode() for name in names), None]
    done = fast_decode.carry_out(compiled, encoded, np.full(4, len(data)), box, np.zeros(4, np.bool_), out)
    assert done == [True, False, False, False]
    assert torch.equal(out[0], carried_out(compiled, data, (5, 6, 200, 100), 50))


def test_damaged_bytes_never_crash(compiled, odd_images):
    generator = np.random.default_rng(2)
    for name in ("plain", "progressive", "gray", "full_chroma", "restarts"):
        for _ in range(150):
            data = bytearray(odd_images[name])
            for place in generator.integers(2, len(data) if generator.random() < 0.5 else 800, 8):
                data[place] = int(generator.integers(256))
            carried_out(compiled, bytes(data), (30, 40, 200, 150), 64)


def test_without_a_compiler_the_native_backend_gives_nearly_the_same_pixels(photo_set, monkeypatch):
    dataset = open_dataset(photo_set, "train", progress=False)
    plan, reasons = TrainPlan(len(dataset), 16, seed=6), []

    def batches():
        with build_loader(dataset, plan, "native", batch_size=16, resolution=96, workers=2) as loader:
            reasons.append(loader.reason)
            return torch.cat([batch.images for batch in loader])

    with_it = batches()
    monkeypatch.setattr(fast_decode, "library", lambda: (None, "no C compiler"))
    assert psnr(with_it, batches()) > 50
    whole = "asked for; whole images by torchvision"
    assert reasons == [whole, f"{whole}; without the compiled decoder, which is faster (no C compiler)"]


@pytest.fixture
def built(monkeypatch, tmp_path):
    """Builds and loads the decoder, in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fast_decode.library.__wrapped__


def test_a_compiler_that_fails_says_why(monkeypatch, tmp_path, built):
    monkeypatch.setattr(fast_decode, "_COMMAND", ("cc", "-DMAX=", "-include", "no_such_header.h", "-shared"))
    found, reason = built()
    assert found is None
    assert "no_such_header.h" in reason
    monkeypatch.setattr(fast_decode, "_COMMAND", ("no-such-compiler",))
    assert built() == (None, "no-such-compiler: No such file or directory")
    assert not list(tmp_path.rglob("*.so"))


def test_what_does_not_decode_rightly_is_never_used(monkeypatch, tmp_path, built):
    """Headers of another libjpeg than the library's, and a library that only says that it is done."""
    (tmp_path / "include").mkdir()
    for name in ("jpeglib.h", "jconfig.h", "jmorecfg.h", "jerror.h"):
        (file,) = [file for file in build._headers() if file.name == name][:1]
        (tmp_path / "include" / name).write_text(file.read_text())
    header = tmp_path / "include/jpeglib.h"
    text = header.read_text()
    assert text.count("JDIMENSION image_width;") == 2
    header.write_text(text.replace("JDIMENSION image_width;", "JDIMENSION image_width; long other;"))
    monkeypatch.setenv("CPATH", str(tmp_path / "include"))
    assert built() == (None, "it does not decode a test picture: libjpeg's headers are not those of its library")
    compiles = []
    monkeypatch.setattr(build, "_compile", lambda *_: compiles.append(1))
    assert built()[0] is None  # known by now
    assert compiles == []
    monkeypatch.delenv("CPATH")
    built()
    assert compiles == [1]  # of other headers


def test_a_kept_library_that_does_not_work_is_made_again(tmp_path, built):
    found, reason = built()
    assert found is not None, reason
    (file,) = (tmp_path / "cache").rglob("*.so")
    inert = (
        "typedef struct { char before[68]; int status; } item; /* as long as the real one */"
        "int carry_out_items(item *items, int n) { for (; n--; items++) items->status = 1; return 0; }"
    )
    for content in (b"of another machine", inert):
        if isinstance(content, str):
            command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(tmp_path / "inert.so")]
            subprocess.run(command, input=content.encode(), check=True)
            content = (tmp_path / "inert.so").read_bytes()
        file.unlink()
        file.write_bytes(content)
        found, reason = built()
        assert found is not None, reason
        assert fast_decode._wrong(found) == ""


@pytest.fixture(scope="module")
def fuzzing(tmp_path_factory):
    return decoder_fuzzing.build(tmp_path_factory.mktemp("fuzzing"))


@pytest.mark.parametrize("of", ["jpeg", "windows", "planes"])
@pytest.mark.parametrize("mutants", [500, pytest.param(200_000, marks=pytest.mark.soak)])
def test_the_sanitizers_find_nothing(fuzzing, tmp_path, mutants, of):
    """Damaged images and boxes at every edge; the soak makes the figure of docs/faults.md."""
    found = decoder_fuzzing.fuzz(fuzzing, tmp_path, of, mutants)
    for part in found:
        print(f"{of}, {part.build}: {part.decoded:,} mutants decoded, {part.refused:,} refused")  # shown with -rP
    assert [part.fault for part in found if part.fault] == []
    decoded, refused = sum(part.decoded for part in found), sum(part.refused for part in found)
    assert decoded + refused == mutants
    assert min(decoded, refused) > mutants // 8
