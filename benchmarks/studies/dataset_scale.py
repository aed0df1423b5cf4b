"""What large datasets cost before and beside decoding: indexing, opening an index of millions, memory for a sample, many shards.

    python benchmarks/studies/dataset_scale.py --samples 14000000

The index of millions is synthetic: its entries are drawn, its images are nowhere. Indexing and reading use small JPEGs, packed
into shards and as class folders. Each figure comes from a process of its own; what is compared takes turns.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import time
import tracemalloc
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from benchmarks.measuring import Window, alternate, positive
from benchmarks.measuring.photos import jpeg, write_folders, write_shards
from benchmarks.reporting import Result, Study
from pipelines import TrainPlan, open_dataset
from pipelines.datasets import indexing
from pipelines.datasets.dataset import Dataset
from pipelines.datasets.folders import Folders
from pipelines.datasets.index import _load
from pipelines.datasets.index_writing import VERSION
from pipelines.datasets.indexing import ENTRY
from pipelines.datasets.source import Found
from pipelines.preparing import catalogue
from pipelines.preparing.catalogue import Inputs, build_catalogue
from pipelines.support.work_sharing import Processes

_NAME = b"n01440764_10026.JPEG\0"
_CHUNK = 1 << 20  # entries written at once
_BATCH = 1024
_OPEN_FILES = 1024

study = Study("dataset_scale", __doc__)
study.option("--samples", type=positive, default=14_000_000, help="in the synthetic index")
study.option("--classes", type=positive, default=70_000, help="in the synthetic index")
study.option("--listed", type=positive, default=300_000, help="samples that a preparation lists")
study.option("--images", type=positive, default=60_000, help="small JPEGs that are indexed and read")
study.option("--workers", type=positive, nargs="+", default=[1, 2, 4], help="processes that index")
study.option("--rounds", type=positive, default=3, help="of what takes turns")


@study
def main(options: Namespace, result: Result) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        write_folders(work / "folders", [jpeg(noise, quality=50)], options.images, classes=60)
        for shards in (60, 600):
            write_shards(work / "folders/train", work / f"of {shards}", shards)
        for part in (measure_index, measure_listing, measure_reading, measure_indexing):
            part(result, options, work)
            result.save()


def measure_index(result: Result, options: Namespace, work: Path) -> None:
    """An index of millions, opened as a rank does."""
    write_index(work / "index", options.samples, options.classes)
    what = f"index of {options.samples:,} samples, {options.classes:,} classes"
    for unit, value in apart(open_index, work / "index").items():
        result.add({"what": what}, unit, value, higher_is_better=not unit.startswith(("s ", "bytes")))
    shutil.rmtree(work / "index")


def measure_listing(result: Result, options: Namespace, work: Path) -> None:
    """What a preparation's root does before the first image is read."""
    (work / "listed").mkdir()
    for unit, value in apart(list_samples, work / "listed", options.listed).items():
        what = f"preparing: listing {options.listed:,} samples"
        result.add({"what": what}, unit, value, higher_is_better=unit.endswith("/s"))


def measure_reading(result: Result, options: Namespace, work: Path) -> None:
    """The same samples from few shards and from many, in turns, where few files may be open."""
    named = "reading at random from {} shards, " + f"{_OPEN_FILES:,} files may be open"
    subjects = {
        named.format(shards): partial(apart, read_all, work / f"of {shards}", open_files=_OPEN_FILES)
        for shards in (60, 600)
    }
    few, many = alternate(subjects, windows=options.rounds, warmup=0, tolerant=False).values()
    result.add_each({}, "what", "images/s", {few.name: few, many.name: many})
    result.add({"what": "reading from 600 shards over 60"}, "times as fast", many.over(few))


def measure_indexing(result: Result, options: Namespace, work: Path) -> None:
    """Every header of the same images, by one thread and by processes, in turns."""
    for form, called in (("of 60", "60 shards"), ("folders", "class folders")):
        by = {0: "one thread"} | {n: f"{n} process{'es' * (n > 1)}" for n in options.workers}
        subjects = {
            f"indexing {called}, {name}": partial(apart, index_anew, work / form, workers)
            for workers, name in by.items()
        }
        measured = alternate(subjects, windows=options.rounds, warmup=0, tolerant=False)
        result.add_each({}, "what", "images/s", measured)
        most = by[max(options.workers)]
        times = measured[f"indexing {called}, {most}"].over(measured[f"indexing {called}, one thread"])
        result.add({"what": f"indexing {called}, {most} over one thread"}, "times as fast", times)


def apart(function: Callable[..., Any], *arguments: object, open_files: int | None = None) -> Any:
    """What a function returns in a new process, which may open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = min(open_files or soft, hard), hard
    begun = {"initializer": resource.setrlimit, "initargs": (resource.RLIMIT_NOFILE, limits)}
    with ProcessPoolExecutor(1, get_context("spawn"), **begun) as pool:
        return pool.submit(function, *arguments).result()


def own_memory() -> int:
    """Bytes that are this process's alone; files that are mapped are not."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def write_index(place: Path, samples: int, classes: int) -> None:
    """An index of images that are nowhere."""
    place.mkdir()
    generator = np.random.default_rng(0)
    with (place / "entries.bin").open("wb") as entries, (place / "names.bin").open("wb") as names:
        for start in range(0, samples, _CHUNK):
            rows = np.zeros(min(_CHUNK, samples - start), ENTRY)
            numbers = np.arange(start, start + len(rows))
            rows["name"], rows["label"] = numbers * len(_NAME), numbers * classes // samples
            rows["width"], rows["height"] = generator.integers(200, 900, (2, len(rows)))
            entries.write(rows.tobytes())
            names.write(_NAME * len(rows))
    labels, counted = [f"{number:08}/" for number in range(classes)], {"count": samples, "names": len(_NAME) * samples}
    listed = {"classes": labels, "starts": [0, samples], "unreadable": 0, "beside": {}, "state": [["all", 0]]}
    (place / "meta.json").write_text(json.dumps({"version": VERSION} | counted | listed))


def open_index(place: Path) -> dict[str, float]:
    """What a rank does with an index before and while it trains."""
    source = Folders(place, "train", ["all"])
    before, started = own_memory(), time.perf_counter()
    index = _load(place)
    assert index is not None
    dataset = Dataset(source, index)
    opened = time.perf_counter() - started
    plan = TrainPlan(len(dataset), _BATCH)
    started = time.perf_counter()
    batches = min(plan.batches, 1000)
    for batch in range(batches):
        indices = plan.indices(0, batch)
        plan.boxes(0, indices, dataset.sizes(indices))
        dataset.labels(indices)
    seconds = time.perf_counter() - started
    memory = own_memory() - before
    counts = np.zeros(len(dataset.classes), np.int64)
    for start in range(0, len(dataset), _CHUNK):
        labels = dataset.labels(np.arange(start, min(start + _CHUNK, len(dataset))))
        counts += np.bincount(labels, minlength=len(counts))
    return {
        "s to open": opened,
        "planned samples/s": batches * _BATCH / seconds,
        "bytes a sample on disk": sum(file.stat().st_size for file in place.iterdir()) / len(dataset),
        "bytes a sample in a rank's own memory": memory / len(dataset),
        "classes with samples": int(np.count_nonzero(counts)),
    }


class _Listing(Folders):
    """Class folders that are nowhere."""

    def __init__(self, root: Path, samples: int) -> None:
        super().__init__(root, "train", [f"n{number:08}" for number in range(100)])
        self._each = samples // len(self.groups)

    def check(self) -> None:
        pass

    def samples(self, group: int) -> Iterator[Found]:
        for number in range(self._each):
            yield Found(f"{self.groups[group]}_{number}.JPEG", f"{self.groups[group]}/", 0, 100_000)


def list_samples(place: Path, samples: int) -> dict[str, float]:
    """What a preparation's root does with what its workers list."""
    source = _Listing(place, samples)
    catalogue.open_source = lambda inputs, split: source  # type: ignore[assignment]
    started = time.perf_counter()
    build_catalogue(Processes(1), Inputs(), "train", place)
    seconds = time.perf_counter() - started
    tracemalloc.start()  # once more, since it slows what it watches
    build_catalogue(Processes(1), Inputs(), "train", place)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"samples/s": samples / seconds, "bytes a sample in memory": most / samples}


def index_anew(place: Path, workers: int) -> Window:
    """All images indexed by so many processes; 0: by one thread of this one."""
    indexing.usable_cores = lambda: workers  # type: ignore[attr-defined]
    indexing._FEW = 0 if workers > 1 else sys.maxsize  # when processes start
    indexing._THREADS = indexing._THREADS if workers else 1
    shutil.rmtree(place / ".index", ignore_errors=True)
    started = time.perf_counter()
    return Window(len(open_dataset(place, "train", progress=False)), time.perf_counter() - started)


def read_all(place: Path) -> Window:
    """All images read, each once, in a random order."""
    dataset = open_dataset(place, "train", progress=False)
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    for index in order[:: max(len(order) // 2000, 1)]:
        dataset.read(index)  # opens the shards
    started = time.perf_counter()
    for index in order:
        dataset.read(index)
    return Window(len(order), time.perf_counter() - started)


if __name__ == "__main__":
    study.start()
