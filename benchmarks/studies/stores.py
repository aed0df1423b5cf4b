"""The stores beside each other and beside what people would use instead: images a second a core, room, preparation, slow disks.

    python benchmarks/studies/stores.py

The same photos of 500 x 375 pixels as JPEGs, and rewritten by `prepare --store ...`, in shards. In turns: the native loader on
each store, and DALI's on those that it reads; torchvision's DataLoader, FFCV's own loader on raw pixels, DALI's documented
pipeline, and libjpeg-turbo decoding whole images in threads. Then what preparing costs beside jpegtran and djpeg on the same
files; each store from a cold page cache and from disks of given speeds, simulated by delayed reads; and, as a model, with how
many cores memory's bandwidth is reached. A part that does not fit into --budget is left out and named; the file is written
after each.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch

from benchmarks.measuring import BenchmarkError, Subject, Window, alternate, drained, one_line
from benchmarks.measuring.budget import Budget
from benchmarks.measuring.command_line import told
from benchmarks.measuring.limits import measure_limits
from benchmarks.measuring.loading import decoded, loaded
from benchmarks.measuring.photos import prepare_shards, write_photos
from benchmarks.measuring.processes import finished, own_environment
from benchmarks.peers import loaders
from benchmarks.reporting import Result, Study
from pipelines import open_dataset
from pipelines.preparing.stores import STORES
from pipelines.support.cores import usable_cores

TORCHVISION, RAW, WHOLE = "torchvision's DataLoader", "FFCV's own loader, raw pixels", "libjpeg-turbo, whole images"
DALI, BY_DALI = "DALI's documented pipeline", "{} by dali"
# How many times as fast as another each should be: by photos' quality, since that decides what decoding costs.
_GOALS = {
    ("planes", TORCHVISION, 97): 10.0, ("planes", RAW, 97): 2.0, ("planes", WHOLE, 97): 3.0,
    ("windows", TORCHVISION, 97): 3.4, ("windows", "jpeg", 97): 1.3, ("windows", "jpeg", 85): 1.2,
    **{(BY_DALI.format("windows"), BY_DALI.format("jpeg"), quality): 1.2 for quality in (97, 85)},
    **{(BY_DALI.format("jpeg"), DALI, quality): 1.0 for quality in (97, 85)},
}  # fmt: skip
_PREPARING = 1.2  # times as long as the other tool, at most
_JPEGTRAN = 'for f; do jpegtran -copy all {} -restart 4B -outfile "$OUT/${{f##*/}}" "$f"; done'
_TOOLS = {  # what does the same to each of the files that follow, by store; without -optimize all but the optimal tables
    "planes": {"djpeg": 'for f; do djpeg -outfile "$OUT/${f##*/}" "$f"; done'},
    "windows": {"jpegtran": _JPEGTRAN.format(""), "jpegtran -optimize": _JPEGTRAN.format("-optimize")},
}
_READERS = {"planes": "native"}  # of what is not encoded
_DISKS = (100e6, 500e6, 3e9)  # bytes a second: a network share, a SATA SSD, NVMe

study = Study(
    "stores", __doc__, images=2048, resolution=299, batch_size=64, workers=usable_cores(), windows=5, budget=float("inf"),
)  # fmt: skip
study.option("--qualities", type=int, nargs="+", default=[97, 85], help="of the JPEGs; 112 and 46 kB")
study.option("--one", type=Path, help="for a process that this script starts: the store that it reads")
study.option("--cold", action="store_true", help="for the same: drop the store from the page cache first")


@study
def main(options: Any, result: Result) -> None:
    torch.set_num_threads(1)
    budget = Budget(options.budget)
    with tempfile.TemporaryDirectory(prefix="stores-") as work:
        for quality in options.qualities:
            photos = _Photos(Path(work) / str(quality), quality, options, result)
            parts: dict[str, Callable[[], None]] = {
                "loading": photos.loading, "preparing": photos.preparing, "disks": photos.disks, "many cores": photos.model,
            }  # fmt: skip
            for name, part in parts.items():
                budget.prepared(f"{name} at quality {quality}", lambda part=part: (part(), result.save()))
    result.notes += budget.notes()
    result.note(
        f"{options.images} photos of 500 x 375 pixels to {options.resolution}, random crops of 8 to 100% of the area, batches of "
        f"{options.batch_size}, {options.workers} threads or processes."
    )


def _installed(tool: str) -> bool:
    return shutil.which(tool.split()[0]) is not None


class _Photos:
    """The parts on photos of one quality, which are written to `folder`, with every store of them beside."""

    def __init__(self, folder: Path, quality: int, options: Any, result: Result) -> None:
        self.folder, self.quality, self.options, self.result = folder, quality, options, result
        result.say(f"making {options.images} photos of quality {quality}, and the stores of them ...")
        self.photos = write_photos(folder / "photos", options.images, quality)
        self.jpegs = sorted((self.photos / "train").rglob("*.jpg"))
        self.case = {"photos": f"{sum(path.stat().st_size for path in self.jpegs) / len(self.jpegs) / 1e3:.0f} kB"}
        self.stores = [store for store in STORES if STORES[store].rewrite is None or not STORES[store].missing()]
        for store in self.stores:
            self._prepare(store)
        self.rates: dict[str, float] = {}  # images/s a core
        self.read: dict[str, float] = {}  # bytes an image that the loader reads

    def _prepare(self, store: str) -> Window:
        told = "--store", store, "--workers", self.options.workers
        return Window(len(self.jpegs), prepare_shards(self.photos, self.folder / store, *told))

    def loading(self) -> None:
        """Loaders in turns; the stores' rates a core make the table to choose by."""
        options, subjects = self.options, dict[str, Subject]()
        for store in self.stores:
            dataset = open_dataset(self.folder / store, "train", progress=False)
            subjects[store] = loaded(dataset, "native", options)
            if store not in _READERS:
                subjects[BY_DALI.format(store)] = loaded(dataset, "dali", options)
        encoded = [torch.from_numpy(np.fromfile(path, np.uint8)) for path in self.jpegs]
        subjects[WHOLE] = decoded(encoded, options.workers)
        job = loaders.DataJob(self.photos, self.folder, options.batch_size, options.resolution, options.workers)
        raw = partial(loaders.ffcv, write_mode="raw")
        for name, peer in {RAW: raw, TORCHVISION: loaders.torchvision, DALI: loaders.dali}.items():
            try:
                subjects[name] = drained(peer(job), ahead=job.ahead)
            except ImportError as error:
                self.result.add_failure(self.case | {"what": name}, "images/s", one_line(error))
        measured = alternate(subjects, windows=options.windows)
        self.result.add_each(self.case, "what", "images/s", measured)
        if RAW in subjects:
            size = (self.folder / "raw.beton").stat().st_size / len(self.jpegs) / 1e3
            self.result.add(self.case | {"what": RAW}, "kB an image", size, higher_is_better=False)
        for (store, other, quality), goal in _GOALS.items():
            if quality == self.quality and {store, other} <= {name for name, m in measured.items() if m.windows}:
                times = measured[store].over(measured[other])
                self.result.add(self.case | {"what": f"{store} over {other}"}, "times as fast", times, goal=goal)
        for store in self.stores:
            rates = [window.rate / window.cores for window in measured[store].windows if window.cores]
            size = sum(path.stat().st_size for path in (self.folder / store).glob("train-*.tar")) / len(self.jpegs)
            row = {"store": store, "bytes an image": f"{size / 1e3:.0f} kB"}
            case = self.case | row | {"read by": _READERS.get(store, "native, dali")}
            if not rates:
                self.result.add_failure(case, "images/s a core", "too few images for the processors' clock")
                continue
            self.rates[store] = self.result.add(case, "images/s a core", rates).value or 0.0

    def preparing(self) -> None:
        """Each store beside the tool that does the same to the same files, started once for many of them."""
        for store, tools in _TOOLS.items():
            if store not in self.stores:
                continue
            subjects = {tool: partial(self._tool, script) for tool, script in tools.items() if _installed(tool)}
            measured = alternate(
                subjects | {store: partial(self._prepare, store)}, windows=self.options.windows, tolerant=False
            )
            by = {f"preparing by {name}": measurement for name, measurement in measured.items()}
            self.result.add_each(self.case, "what", "images/s", by)
            for tool in tools:
                case = self.case | {"what": f"prepare {store} over {tool}"}
                if tool in subjects:
                    longer = measured[tool].over(measured[store])
                    self.result.add(case, "times as long", longer, higher_is_better=False, goal=_PREPARING)
                else:
                    self.result.add_failure(case, "times as long", f"{tool} is not installed (libjpeg-turbo-progs)")

    def _tool(self, script: str) -> Window:
        output = self.folder / "tool"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        os.sync()
        command = ["xargs", "-0", "-P", str(self.options.workers), "-n", "64", "sh", "-c", script, "sh"]
        names, started = b"\0".join(map(os.fsencode, self.jpegs)), time.perf_counter()
        done = subprocess.run(command, input=names, env=own_environment() | {"OUT": str(output)}, check=False)
        if done.returncode:
            raise BenchmarkError(f"the tool beside preparation failed with status {done.returncode}")
        os.sync()  # as preparation brings its files to the disk
        return Window(len(self.jpegs), time.perf_counter() - started)

    def disks(self) -> None:
        """Each store from memory, from this machine's disk, and from disks of given speeds."""
        library, source = self.folder / "slow_disk.so", Path(__file__).with_name("slow_disk.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
        slow = {f"{speed / 1e6:,.0f} MB/s": {"DISK_BYTES_PER_SECOND": str(speed)} for speed in _DISKS}
        for disk, added in {"page cache": {}, "this disk, cold": {}, **slow}.items():
            environment = added and {"LD_PRELOAD": str(library), **added}
            subjects = {store: partial(self._one, store, disk.endswith("cold"), environment) for store in self.stores}
            measured = alternate(subjects, windows=self.options.windows, warmup=0, tolerant=False)
            self.result.add_each(self.case | {"from": disk}, "store", "images/s", measured)
        kilobytes = {store: self.read[store] / 1e3 for store in self.stores}
        self.result.add_each(self.case, "store", "kB read an image", kilobytes, higher_is_better=False)

    def _one(self, store: str, cold: bool, added: dict[str, str]) -> Window:
        shape = told(self.options, "resolution", "batch_size", "workers")
        command = [sys.executable, __file__, "--one", self.folder / store, *shape, *(["--cold"] if cold else [])]
        found = json.loads(finished(command, f"loading {store}", own_environment() | added)[1])
        self.read[store] = found.pop("read")
        return Window(**found)

    def model(self) -> None:
        """With how many cores memory gives no more: its bandwidth over what a core moves at the measured rate, that is each
        byte read twice (out of the page cache, by the resize) and the batch once written and once read."""
        if not self.rates or not self.read:
            return
        torch.set_num_threads(usable_cores())  # all of them move bytes
        bandwidth = max(rate for _, rate in measure_limits(torch.device("cpu")).bandwidths[-2:])
        torch.set_num_threads(1)
        for store, rate in self.rates.items():
            moved = 2 * self.read[store] + 2 * 3 * self.options.resolution**2
            case = self.case | {"store": store, "model": f"at {bandwidth / 1e9:.0f} GB/s of memory"}
            self.result.add(case, "cores until memory is the limit", bandwidth / (moved * rate))
            for disk in _DISKS:
                case = self.case | {"store": store, "model": f"at {disk / 1e6:,.0f} MB/s of disk"}
                self.result.add(case, "cores until the disk is the limit", disk / (self.read[store] * rate))


@study.instead("one")
def _read_one(options: Any) -> None:
    """One pass of the native loader over a store, as JSON: its window, and the bytes that were read for an image."""
    torch.set_num_threads(1)
    dataset = open_dataset(options.one, "train", progress=False)
    for path in options.one.glob("*.tar") if options.cold else ():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is on the disk can be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = _bytes_read()
    window = loaded(dataset, "native", options)()
    images = len(dataset) // options.batch_size * options.batch_size
    print(json.dumps(vars(window) | {"read": (_bytes_read() - before) / images}))


def _bytes_read() -> int:
    """Bytes that this process has read by now (proc(5), rchar)."""
    return int(Path("/proc/self/io").read_text().split()[1])


if __name__ == "__main__":
    study.start()
