"""What preparing data costs: class folders to tar shards, beside `tar` of the same files and reading each image's header.

    python benchmarks/costs/prepare.py
    python benchmarks/costs/prepare.py --directory /dev/shm

Preparation shuffles, checks every header, takes checksums, reads everything back, compares, and writes the index that
training starts from; `tar` copies. Both bring what they wrote to the disk (fsync). Every window of preparation is the
whole command, with its start.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.measuring import Window, alternate
from benchmarks.measuring.photos import prepare_shards, write_photos
from benchmarks.reporting import Result, Study, number
from pipelines.datasets.image_headers import probe
from pipelines.support.cores import usable_cores

TAR, PREPARE = "tar and each header", "prepare"
GOAL = 1.3  # times as long as the other, at most
_QUALITY = 97  # gives ImageNet's mean size, 110 KB

study = Study("prepare", __doc__, images=12000, workers=usable_cores(), windows=5)
study.option("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where all is read and written")


@study
def main(options: Any, result: Result) -> None:
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=options.directory) as work:
        folder = Path(work) / "photos"
        result.say(f"making {options.images} photos ...")
        write_photos(folder, options.images, quality=_QUALITY)
        sizes = [path.stat().st_size for path in folder.rglob("*.jpg")]
        size, count = sum(sizes), len(sizes)
        shards = Path(work) / "shards"
        subjects = {
            TAR: partial(_tar_and_headers, folder, Path(work) / "all.tar", count),
            PREPARE: lambda: Window(count, prepare_shards(folder, shards, "--workers", options.workers)),
        }
        result.say(f"measuring in turns, {options.windows} windows each after one of warm-up ...")
        measured = alternate(subjects, windows=options.windows, tolerant=False)
    result.add_each({}, "what", "images/s", measured, megabytes=size / 1e6)
    longer = measured[TAR].over(measured[PREPARE])
    result.add({"what": f"{PREPARE} over {TAR}"}, "times as long", longer, higher_is_better=False, goal=GOAL)
    result.note(
        f"{count:,} photos, {size / count / 1e3:.0f} KB each, in {options.directory}; goal: at most {GOAL} times as long; "
        f"measured {number(longer.value)}"
    )


def _tar_and_headers(folder: Path, archive: Path, count: int) -> Window:
    archive.unlink(missing_ok=True)
    os.sync()
    started = time.perf_counter()
    subprocess.run(["tar", "-cf", archive, "-C", folder, "train", "val"], check=True)
    with archive.open("rb") as file:
        os.fsync(file.fileno())
    for parent, _, names in os.walk(folder):
        for name in names:
            with Path(parent, name).open("rb", buffering=0) as image:
                descriptor = image.fileno()
                probe(lambda at, size, file=descriptor: os.pread(file, size, at), os.fstat(descriptor).st_size)
    return Window(count, time.perf_counter() - started)


if __name__ == "__main__":
    study.start()
