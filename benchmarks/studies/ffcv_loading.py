"""The ffcv backend beside FFCV's own loader, on the same file and cores: images a second, and CPU time.

    python benchmarks/studies/ffcv_loading.py
    python benchmarks/studies/ffcv_loading.py --quality 97

Photos are random crops, 300 to 500 pixels a side, of the photographs that scikit-image and scikit-learn bring. All
loaders cut random resized crops from them and mirror half; the native backend and bare decoding stand beside. How near their
pixels are to Pillow's, tests/pipelines/loading/test_ffcv.py says.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch

from benchmarks.measuring import Subject, Window, alternate, drained
from benchmarks.measuring.loading import AHEAD, decoded, loaded
from benchmarks.measuring.photos import jpeg, write_folders
from benchmarks.peers.loaders import DataJob, ffcv_reading
from benchmarks.reporting import Result, Study
from pipelines import open_dataset
from pipelines.preparing.beton_writer import write_beton
from pipelines.support.cores import usable_cores
from pipelines.tools.parity import photos

STOCK, GOAL = "FFCV's own loader", 2.0

study = Study(
    "ffcv_loading", __doc__, images=1536, quality=90, resolution=299, batch_size=64, workers=usable_cores(), windows=7,
)  # fmt: skip


@study
def main(options: Any, result: Result) -> None:
    torch.set_num_threads(1)  # as importing FFCV does; nothing here is torch's work
    with tempfile.TemporaryDirectory(prefix="ffcv-") as work:
        result.say(f"making {options.images} photos ...")
        files = [jpeg(np.asarray(photo), quality=options.quality) for photo in photos(options.images)]
        write_folders(Path(work) / "photos", files, len(files))
        write_beton(partial(open_dataset, f"{work}/photos", "train", progress=False), Path(work) / "train.beton")
        dataset = open_dataset(work, "train", progress=False)
        job = DataJob(Path(), Path(), options.batch_size, options.resolution, options.workers)
        encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        loading = {
            "ffcv": loaded(dataset, "ffcv", options),
            STOCK: drained(ffcv_reading(Path(work) / "train.beton", job), ahead=AHEAD),
            "native, on the same file": loaded(dataset, "native", options),
            "decoding alone, whole images": decoded(encoded, options.workers),
        }
        used: dict[str, list[float]] = {name: [] for name in loading}
        subjects = {name: partial(_metered, loading[name], options.images, used[name]) for name in loading}
        result.say(f"measuring {len(subjects)} subjects in turns, {options.windows} windows each ...")
        measured = alternate(subjects, windows=options.windows, tolerant=False)
    result.add_each({}, "what", "images/s", measured)
    milliseconds = {name: values[-options.windows :] for name, values in used.items()}  # without the warm-up
    result.add_each({}, "what", "ms of CPU time an image", milliseconds, higher_is_better=False)
    result.add({"what": f"ffcv over {STOCK}"}, "times as fast", measured["ffcv"].over(measured[STOCK]), goal=GOAL)
    result.note(
        f"{options.images} photos, {sum(map(len, files)) / options.images / 1e3:.0f} KB each on average, quality "
        f"{options.quality}, to {options.resolution} pixels, batches of {options.batch_size}, {options.workers} threads, CPU only"
    )


def _metered(subject: Subject, images: int, used: list[float]) -> Window:
    """The subject's window; notes the CPU time of its whole pass, which others on the machine hardly change."""
    started = time.process_time()
    window = subject()
    used.append(1000 * (time.process_time() - started) / images)
    return window


if __name__ == "__main__":
    study.start()
