"""What preparing data costs: class folders to tar shards, beside `tar` of the same files and reading each image's header.

    python benchmarks/costs/prepare.py
    python benchmarks/costs/prepare.py --directory /dev/shm

Preparation shuffles, checks every header, takes checksums, reads everything back, compares, and writes the index that
training starts from; `tar` copies. Both bring what they wrote to the disk (fsync). Every window of preparation is the
whole command, with its start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from rich.console import Console

from benchmarks.measuring.command_line import BenchmarkError, Parser, add_output_options, positive
from benchmarks.measuring.measure import Subject, Window, alternate
from benchmarks.measuring.photos import write_photos
from benchmarks.reporting.results import RESULTS, Result, number
from engine.faults.exit_status import DONE, run_entry_point
from pipelines.datasets.image_headers import probe
from pipelines.support.cores import usable_cores

TAR, PREPARE = "tar and each header", "prepare"
GOAL = 1.3  # times as long as the other, at most
_QUALITY = 97  # gives ImageNet's mean size, 110 KB


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    result = Result("prepare", vars(options))
    say = Console(highlight=False, soft_wrap=True).print
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=options.directory) as work:
        folder = Path(work) / "photos"
        say(f"making {options.images} photos ...")
        write_photos(folder, options.images, quality=_QUALITY)
        size = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
        count = sum(1 for _ in folder.rglob("*.jpg"))
        subjects = {
            TAR: _tar_and_headers(folder, Path(work) / "all.tar", count),
            PREPARE: _prepare(folder, Path(work) / "shards", count, options),
        }
        measured = alternate(
            subjects, windows=options.windows, tolerant=False, on_window=lambda name, round: say(f"{name}, {round}")
        )
    for name, measurement in measured.items():
        result.add({"what": name}, "images/s", measurement, megabytes=size / 1e6)
    longer = measured[TAR].over(measured[PREPARE])
    result.add(
        {"what": f"{PREPARE} over {TAR}"}, "times as long", longer.value, interval=(longer.low, longer.high),
        higher_is_better=False, goal=GOAL,
    )  # fmt: skip
    result.note(
        f"{count:,} photos, {size / count / 1e3:.0f} KB each, in {options.directory}; goal: at most {GOAL} times as long; "
        f"measured {number(longer.value)}"
    )
    result.print()
    say(f"saved {result.save(options.output)}")
    return DONE


def _parser() -> Parser:
    parser = Parser("What preparing data costs, beside tar and reading each header.")
    parser.add_argument("--images", type=positive, default=12000, help="photos of 500 x 375 pixels")
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="where all is read and written"
    )
    parser.add_argument("--workers", type=positive, default=usable_cores(), help="processes of preparation")
    parser.add_argument("--windows", type=positive, default=5, help="measured windows of each")
    add_output_options(parser, RESULTS)
    return parser


def _tar_and_headers(folder: Path, archive: Path, count: int) -> Subject:
    def window() -> Window:
        archive.unlink(missing_ok=True)
        os.sync()
        started = time.perf_counter()
        subprocess.run(["tar", "-cf", archive, "-C", folder, "train", "val"], check=True)
        with archive.open("rb") as file:
            os.fsync(file.fileno())
        for split in ("train", "val"):
            for parent, _, names in os.walk(folder / split):
                for name in names:
                    _read_header(f"{parent}/{name}")
        return Window(count, time.perf_counter() - started)

    return window


def _read_header(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        probe(lambda offset, size: os.pread(descriptor, size, offset), os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _prepare(folder: Path, output: Path, count: int, options) -> Subject:
    command = [
        sys.executable, str(ROOT / "pipelines/prepare.py"), "folder", str(folder), "--to", "shards",
        "--output", str(output), "--shard-size", "32M", "--workers", str(options.workers),
    ]  # fmt: skip

    def window() -> Window:
        shutil.rmtree(output, ignore_errors=True)
        os.sync()
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise BenchmarkError(f"preparation failed: {done.stderr.strip()}")
        return Window(count, seconds)

    return window


if __name__ == "__main__":
    run_entry_point(main)
