"""Images that the pipelines' tests share: photographs from scikit-image and scikit-learn, and what JPEGs do in the wild."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import open_dataset, sample_path
from pipelines.tools import parity


@pytest.fixture(scope="session")
def sample_val():
    """The embedded dataset's validation split: 1,000 images in one shard."""
    return open_dataset(sample_path(), "val", progress=False)


@pytest.fixture(scope="session")
def sample_train():
    """The embedded dataset's training split: 4,000 images in four shards."""
    return open_dataset(sample_path(), "train", progress=False)


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """32 crops of photographs, 300 to 500 pixels a side, RGB."""
    return parity.photos(32)


def jpeg(image: Image.Image, **options) -> bytes:
    """The image as JPEG bytes, quality 90 unless said."""
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90} | options)
    return file.getvalue()


def with_wide_tables(data: bytes) -> bytes:
    """The same JPEG with its quantisation tables written in 16 bits (T.81, B.2.4.1, Pq = 1)."""
    out, at = bytearray(data[:2]), 2
    while data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xDB:
            tables = [body[start : start + 65] for start in range(0, len(body), 65)]
            body = b"".join(
                bytes([0x10 | table[0]]) + b"".join(bytes([0, value]) for value in table[1:]) for table in tables
            )
        out += data[at : at + 2] + (len(body) + 2).to_bytes(2, "big") + body
        at += 2 + length
    return bytes(out) + data[at:]


@pytest.fixture(scope="session")
def odd_images(photos: list[Image.Image]) -> dict[str, bytes]:
    """One photo in the forms that JPEGs take in the wild, by name; every one decodes to about the same pixels."""
    photo = photos[4]
    exif = {}
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        # Stored so that the orientation turns it upright again.
        undo = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }.get(orientation)
        stored = photo if undo is None else photo.transpose(undo)
        exif[f"rotated{orientation}"] = jpeg(stored, exif=tags)
    png = io.BytesIO()
    photo.save(png, "PNG")
    return {
        "plain": jpeg(photo),
        "gray": jpeg(photo.convert("L")),
        "cmyk": jpeg(photo.convert("CMYK")),
        "progressive": jpeg(photo, progressive=True),
        "full_chroma": jpeg(photo, subsampling=0),
        "half_chroma": jpeg(photo, subsampling=1),
        "restarts": jpeg(photo, restart_marker_rows=1),
        "wide_tables": with_wide_tables(jpeg(photo)),
        "png": png.getvalue(),
        **exif,
    }


@pytest.fixture(scope="session")
def bad_images(photos: list[Image.Image]) -> dict[str, bytes]:
    """What no decoder can read, by name."""
    data = jpeg(photos[4])
    return {
        "empty": b"",
        "truncated": data[: len(data) // 2],
        "header_only": data[:300],
        "text": b"<html>404 not found</html>\n" * 20,
        "noise": bytes(np.random.default_rng(1).integers(0, 256, 5000, np.uint8)),
    }


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """``make_folder({"train/cat/1.jpg": bytes, ...}) -> Path``: a dataset directory that holds these files."""

    def make(files: dict[str, bytes], name: str = "data") -> Path:
        for path, data in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(data)
        return tmp_path / name

    return make


@pytest.fixture(params=["native", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that reads a dataset's own files."""
    return request.param


@pytest.fixture(scope="session")
def photo_set(
    tmp_path_factory: pytest.TempPathFactory, photos: list[Image.Image], odd_images: dict[str, bytes]
) -> Path:
    """A dataset directory: split train with 32 photos of class a and one photo in every odd form of class b."""
    root = tmp_path_factory.mktemp("photos")
    (root / "train/a").mkdir(parents=True)
    (root / "train/b").mkdir()
    for number, photo in enumerate(photos):
        (root / f"train/a/{number:02d}.jpg").write_bytes(jpeg(photo))
    for name, data in odd_images.items():
        (root / f"train/b/{name}.jpg").write_bytes(data)
    return root
