"""Feeds damaged images to the compiled decoder under the address and undefined-behaviour sanitizers, and counts what they find.

    python benchmarks/studies/decoder_fuzzing.py --mutants 200000 --of jpeg
    python benchmarks/studies/decoder_fuzzing.py --mutants 200000 --of planes

Sound JPEGs of every form (baseline, progressive, gray, CMYK, each chroma subsampling, restart markers) are changed at random:
bits, bytes, markers, pieces left out or repeated, ends cut off. So are planes (.y4m) of every form, half of their damage to the
header; half of those whose header can still be read get as many bytes as it asks for. Boxes, sizes and orientations are drawn
too, some of them nonsense. Half of the mutants go to the code for AVX2, half to the code for any processor. The first fault
ends a build's run.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from PIL import Image

from benchmarks.measuring import ROOT, BenchmarkError, Parser, positive
from benchmarks.reporting.results import Result
from engine.faults.exit_status import DONE, FAILED, run_entry_point
from pipelines.datasets import y4m

_SOURCE = Path(__file__).with_suffix(".c")
_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")
_FORMS: dict[str, dict] = {
    "420": {"subsampling": 2}, "422": {"subsampling": 1}, "444": {"subsampling": 0}, "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3}, "coarse": {"quality": 5}, "optimised": {"optimize": True, "quality": 98},
}  # fmt: skip
_SHAPES = ((160, 120), (97, 131), (16, 16), (1, 1), (3, 70))


def main(arguments: Sequence[str]) -> int:
    parser = Parser("Damaged images through the compiled decoder, under sanitizers.")
    parser.add_argument("--of", choices=["jpeg", "planes"], default="jpeg", help="what is damaged")
    parser.add_argument("--mutants", type=positive, default=200_000, help="damaged images")
    parser.add_argument("--seed", type=positive, default=1, help="of what is drawn")
    options = parser.parse_args(arguments)
    result = Result("decoder_fuzzing", options)
    builds = {"avx2": ["-mavx2"], "any processor": []} if platform.machine() == "x86_64" else {"any processor": []}
    with tempfile.TemporaryDirectory() as folder:
        seeds = write_seeds(Path(folder)) if options.of == "jpeg" else write_planes(Path(folder))
        shares = np.array_split(np.arange(options.mutants), len(builds))

        def run(build: tuple[int, tuple[str, list[str]]]) -> tuple[str, subprocess.CompletedProcess[str]]:
            number, (name, flags) = build
            program = compiled(Path(folder) / f"fuzz{number}", flags)
            command = [str(program), str(len(shares[number])), str(options.seed + number), *map(str, seeds)]
            return name, subprocess.run(command, capture_output=True, text=True, check=False)

        with ThreadPoolExecutor(len(builds)) as pool:
            runs = list(pool.map(run, enumerate(builds.items())))
    for name, done in runs:
        decoded, refused, no_memory = (int(word) for word in done.stdout.split()) if done.returncode == 0 else (0, 0, 0)
        case = {"code for": name, "of": options.of}
        result.add(case, "mutants decoded", decoded)
        result.add(case, "mutants refused", refused + no_memory)
        result.add(case, "faults found", int(done.returncode != 0), higher_is_better=False)
        print(done.stderr[-6000:], end="", file=sys.stderr)
    result.finish()
    return FAILED if any(done.returncode for *_, done in runs) else DONE


def write_seeds(folder: Path) -> list[Path]:
    """Sound JPEGs of every form and several sizes."""
    generator = np.random.default_rng(0)
    files = []
    for width, height in _SHAPES:
        blocks = generator.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
        photo = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
        forms = {name: (photo, form) for name, form in _FORMS.items()}
        forms |= {"gray": (photo.convert("L"), {}), "cmyk": (photo.convert("CMYK"), {})}
        for name, (image, form) in forms.items():
            data = io.BytesIO()
            image.save(data, "JPEG", **{"quality": 85} | form)
            files.append(folder / f"{name}-{width}x{height}.jpg")
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


def compiled(program: Path, flags: Sequence[str]) -> Path:
    """The C of pipelines/decoding with a `main` that damages files; BenchmarkError when it does not compile."""
    included = ROOT / "pipelines" / "decoding"
    command = ["cc", "-std=gnu11", *_SANITIZERS, *flags, f"-I{included}", str(_SOURCE), "-o", str(program), "-ljpeg"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"the fuzzing program does not compile: {done.stderr.strip().splitlines()[0]}")
    return program


if __name__ == "__main__":
    run_entry_point(main)
