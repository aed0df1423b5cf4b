"""Damaged images through the compiled decoder, under the address and undefined-behaviour sanitizers.

Sound JPEGs of every form (baseline, progressive, gray, CMYK, each chroma subsampling, restart markers) are changed at random:
bits, bytes, markers, pieces left out or repeated, ends cut off. So are those with restart markers everywhere (windows), half of
the damage to these; what is cut out of them for other decoders is looked at too. So are planes (.y4m) of every form, half of
their damage to the header; half of those whose header can still be read get as many bytes as it asks for. Boxes, sizes and
orientations are drawn too, some of them nonsense. Half of the mutants go to the code for AVX2, half to the code for any
processor. The first fault ends a build's run.
"""

from __future__ import annotations

import io
import platform
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.datasets import y4m

ROOT = Path(__file__).resolve().parents[2]
_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")
_FORMS: dict[str, dict] = {
    "420": {"subsampling": 2}, "422": {"subsampling": 1}, "444": {"subsampling": 0}, "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3}, "coarse": {"quality": 5}, "optimised": {"optimize": True, "quality": 98},
}  # fmt: skip
# With restart markers that a part can be cut out by, in the middle of rows and between them.
_WINDOWS: dict[str, dict] = {
    "420": {"subsampling": 2, "restart_marker_blocks": 1}, "422": {"subsampling": 1, "restart_marker_blocks": 5},
    "444": {"subsampling": 0, "restart_marker_blocks": 4, "quality": 98}, "rows": {"restart_marker_rows": 2},
}  # fmt: skip
_SHAPES = ((160, 120), (97, 131), (16, 16), (1, 1), (3, 70))


class Fuzzed(NamedTuple):
    """What came of one build's share of the mutants; `fault` is what the sanitizers said of the first that they found."""

    build: str
    decoded: int
    refused: int
    fault: str


def build(folder: Path) -> dict[str, Path]:
    """The program that makes and decodes mutants, for every kind of code that this processor runs."""
    builds = {"avx2": ["-mavx2"], "any processor": []} if platform.machine() == "x86_64" else {"any processor": []}
    programs = {name: folder / f"fuzz{number}" for number, name in enumerate(builds)}
    for name, program in programs.items():
        source = [str(Path(__file__).with_suffix(".c")), "-o", str(program), "-ljpeg"]
        included = f"-I{ROOT / 'pipelines/decoding'}"
        subprocess.run(["cc", "-std=gnu11", *_SANITIZERS, *builds[name], included, *source], check=True)
    return programs


def fuzz(programs: dict[str, Path], folder: Path, of: str, mutants: int, seed: int = 1) -> list[Fuzzed]:
    """So many mutants of "jpeg", "windows" or "planes", shared by the programs of `build`; files go to `folder`."""
    seeds = {"jpeg": write_jpegs, "windows": write_windows, "planes": write_planes}[of](folder)

    def run(number: int, name: str) -> Fuzzed:
        command = [str(programs[name]), str(mutants // len(programs)), str(seed + number), *map(str, seeds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        decoded, refused, no_memory = map(int, done.stdout.split()) if done.returncode == 0 else (0, 0, 0)
        return Fuzzed(name, decoded, refused + no_memory, done.stderr[-6000:] if done.returncode else "")

    with ThreadPoolExecutor(len(programs)) as pool:
        return list(pool.map(run, range(len(programs)), programs))


def write_jpegs(folder: Path) -> list[Path]:
    """Sound JPEGs of every form and several sizes."""
    return _write(folder, _FORMS, _SHAPES, odd=True)


def write_windows(folder: Path) -> list[Path]:
    """Sound JPEGs with restart markers by which they can be cut."""
    return _write(folder, _WINDOWS, (*_SHAPES[:1], (320, 200), (17, 240)), odd=False)


def _write(folder: Path, forms: dict[str, dict], shapes: Sequence[tuple[int, int]], odd: bool) -> list[Path]:
    generator = np.random.default_rng(0)
    files = []
    for width, height in shapes:
        blocks = generator.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
        photo = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
        images = {name: (photo, form) for name, form in forms.items()}
        images["gray"] = (photo.convert("L"), {} if odd else {"restart_marker_blocks": 1})
        images |= {"cmyk": (photo.convert("CMYK"), {})} if odd else {}
        for name, (image, form) in images.items():
            data = io.BytesIO()
            image.save(data, "JPEG", **{"quality": 85} | form)
            files.append(folder / f"{'jpeg' if odd else 'windows'}-{name}-{width}x{height}.jpg")
            files[-1].write_bytes(data.getvalue())
    return files


def write_planes(folder: Path) -> list[Path]:
    """Sound planes of every form and several sizes."""
    generator = np.random.default_rng(0)
    files = []
    for width, height in _SHAPES:
        for covered in ((2, 2), (2, 1), (1, 1), (0, 0)):
            head = y4m.header_of(width, height, *covered)
            size = y4m.Picture(width, height, *covered, 0).size
            files.append(folder / f"{covered[0]}{covered[1]}-{width}x{height}.y4m")
            files[-1].write_bytes(head + bytes(generator.integers(0, 256, size, np.uint8)))
    return files
