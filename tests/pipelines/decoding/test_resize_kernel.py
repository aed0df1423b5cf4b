"""Planes for a GPU to resize: the rows of a box and no others are read, where the table says; the kernel makes of them what the
compiled decoder makes, in Triton's interpreter and on a GPU where there is one, and compiles for the GPUs that it is for."""

from __future__ import annotations

import contextlib
import importlib.util
import json

import numpy as np
import pytest
import torch

from pipelines.datasets import y4m
from pipelines.decoding import fast_decode
from pipelines.decoding.staging import UNIT, Staging

DRIVER = "tests/pipelines/decoding/resize_driver.py"
INTERPRETER = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
CHROMA = ((2, 2), (2, 1), (1, 1), (0, 0))
SIZES = ((97, 131), (33, 17), (5, 3), (2, 7), (1, 40), (40, 1), (1, 1))
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
MARGIN = 5  # rows beside: what the smooth upsampling of chroma looks at, and whole pixels of chroma


@pytest.fixture(scope="module")
def compiled():
    found, reason = fast_decode.library()
    assert found is not None, reason
    return found


@pytest.fixture
def pictures(tmp_path):
    """Every sampling and size, one behind another in one file: for each its size in pixels, its place and its planes."""
    generator, found, written = np.random.default_rng(1), [], b"before the first"
    for covered in CHROMA:
        for width, height in SIZES:
            picture = y4m.Picture(width, height, *covered, 0)
            planes = [generator.integers(0, 256, shape, np.uint8) for shape in picture.shapes]
            data = y4m.header_of(width, height, *covered) + b"".join(plane.tobytes() for plane in planes)
            found.append((picture, len(written), len(data), planes))
            written += data
    (tmp_path / "shard").write_bytes(written)
    with (tmp_path / "shard").open("rb") as file:
        yield file, found


def items_of(file, pictures, generator: np.random.Generator, side: int) -> np.ndarray:
    """A random box of each picture, half of them as part of a larger square."""
    items = np.zeros(len(pictures), fast_decode.ITEM)
    for item, (picture, place, size, _) in zip(items, pictures):
        item["place"], item["size"] = place, size
        item["left"], item["top"] = generator.integers(picture.width), generator.integers(picture.height)
        item["width"] = generator.integers(1, picture.width - item["left"] + 1)
        item["height"] = generator.integers(1, picture.height - item["top"] + 1)
        item["across"], item["down"] = side + generator.integers(0, side, 2, endpoint=True) * generator.integers(2)
        item["x"], item["y"] = (generator.integers(item[whole] - side + 1) for whole in ("across", "down"))
    items["file"], items["modified"], items["planes"], items["orientation"] = file.fileno(), -1, 1, 1
    items["bicubic"] = generator.integers(0, 2, len(items))
    return items


def rows_of_weight(item: np.void, side: int) -> tuple[int, int]:
    """The first row of an image that has a weight, and the one behind the last, by Pillow's definition of the filter."""
    scale = item["height"] / item["down"]
    support = (2 if item["bicubic"] else 1) * max(scale, 1)
    low, high = (item["y"] + 0.5) * scale - support, (item["y"] + side - 0.5) * scale + support
    return item["top"] + max(int(low), 0), item["top"] + min(int(np.ceil(high)), item["height"])


@pytest.mark.parametrize("side", [1, 8, 64])
def test_the_rows_of_the_box_are_staged_and_no_others(compiled, pictures, side):
    file, found = pictures
    generator = np.random.default_rng(side)
    for _ in range(20):
        items = items_of(file, found, generator, side)
        staging = Staging(compiled, items, np.array([picture[:2] for picture, *_ in found]), side)
        half = len(items) // 2  # as two threads do
        assert staging.read(items[half:].copy(), half).all()
        assert staging.read(items[:half].copy()).all()
        ends = [*staging.table["place"][1:], len(staging.buffer) // UNIT]
        for item, entry, end, (picture, _, _, planes) in zip(items, staging.table, ends, found):
            assert tuple(entry[["columns", "across", "down"]]) == (picture.width, picture.across, picture.down)
            assert tuple(entry[["left", "height", "whole_down", "y"]]) == tuple(item[["left", "height", "down", "y"]])
            first, behind = rows_of_weight(item, side)
            beside = MARGIN + item["height"] / item["down"] / 2  # from a pixel's centre to its end
            assert max(first - beside, 0) <= entry["first"] <= first
            assert behind <= entry["end"] <= min(behind + beside, picture.height)
            rows = [(entry["first"], entry["end"])]
            if picture.across:
                rows += 2 * [(entry["first"] // picture.down, -(-entry["end"] // picture.down))]
            wanted = b"".join(plane[start:stop].tobytes() for plane, (start, stop) in zip(planes, rows))
            at = int(entry["place"]) * UNIT
            assert staging.buffer[at : at + len(wanted)].numpy().tobytes() == wanted
            assert 0 <= end * UNIT - at - len(wanted) < 64 + UNIT  # where the index leaves open how chroma is sampled


def test_what_is_no_planes_or_not_as_indexed_is_left_to_the_host(compiled, pictures):
    file, found = pictures
    items = items_of(file, found, np.random.default_rng(0), 8)
    sizes = np.array([picture[:2] for picture, *_ in found])
    items["planes"][0] = 0
    items["orientation"][1] = 6
    items["modified"][2] = 1
    items["place"][3] += 1
    items["file"][4], items["path"][4] = -1, 0
    items["width"][5] = 99
    items["size"][6] -= 1
    sizes[7] += 1
    staging = Staging(compiled, items, sizes, 8)
    assert np.flatnonzero(~staging.read(items)).tolist() == list(range(8))


@pytest.mark.parametrize(("height", "fits"), [(32768, True), (32769, False)])
def test_rows_that_the_kernel_cannot_count_in_32_bits_have_no_room(compiled, height, fits):
    picture = y4m.Picture(65535, height, 0, 0, len(y4m.header_of(65535, height, 0, 0)))
    items, needs = np.zeros(2, fast_decode.ITEM), np.zeros(2, np.uint64)
    items["size"], items["planes"], items["orientation"] = picture.size, 1, 1
    items["width"], items["height"] = 65535, (height, 9)  # all of it, and a few of its rows
    items["across"] = items["down"] = 8
    sizes = np.full((2, 2), picture[:2], np.int32)
    compiled.stage_needs(items.ctypes.data, 2, 8, sizes.ctypes.data, needs.ctypes.data)
    assert needs[0] == (65535 * height if fits else 0)
    assert 9 * 65535 <= needs[1] <= (9 + MARGIN) * 65535


@needs_triton
def test_the_kernel_is_launched_on_the_gpu_that_its_squares_are_on(monkeypatch):
    """Triton launches on the current GPU, whichever that is."""
    from pipelines.decoding import resize_kernel

    current, launched = [], []

    @contextlib.contextmanager
    def device_of(tensor):
        current.append(tensor)
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *_, **__: launched.extend(current)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(resize_kernel, "resize_kernel", Kernel())
    out = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    resize_kernel.resize(torch.zeros(1024, dtype=torch.uint8), out)
    assert [tensor is out for tensor in launched] == [True]


def report(run_command, device: str, part: str, env: dict[str, str]) -> dict:
    done = run_command([DRIVER, device, part], env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def check_kernel(found: dict[str, list[float]]) -> None:
    """Where sums are rounded otherwise, a pixel falls to the next level."""
    assert len(found) == 10
    for case, (levels, decibels) in found.items():
        assert levels <= 1, case
        assert decibels >= 55, case


@needs_triton
def test_squares_are_those_of_the_compiled_decoder_in_the_interpreter(run_command):
    check_kernel(report(run_command, "cpu", "kernel", INTERPRETER))


@needs_triton
def test_the_kernel_compiles_for_hopper(run_command):
    assert report(run_command, "cpu", "for-sm90", {"TRITON_INTERPRET": "0"})["bytes"] > 1000


@pytest.mark.gpu
def test_squares_are_those_of_the_compiled_decoder_on_a_gpu(run_command):
    check_kernel(report(run_command, "gpu", "kernel", {}))
