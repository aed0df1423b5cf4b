"""The backend on FFCV: its file format, read at any place, on the CPU, with the plan's boxes and an exact, fast resize.

FFCV's own loader draws its crops itself, without a seed, its threads outlive an epoch that is left early, and every
process holds the tables of the whole dataset. Here the threads of the native backend work, one compiled call for each
slice of a batch, with tables that all processes of a machine share. JPEGs go to the decoder in C, which decodes only what a
box shows; raw pixels, and JPEGs where that could not be compiled, to FFCV's library.
"""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.beton import Beton
from pipelines.datasets.dataset import Dataset
from pipelines.datasets.image_headers import SLOW, Flag
from pipelines.decoding import fast_decode
from pipelines.loading.items import items_of
from pipelines.loading.native import NativeLoader
from pipelines.loading.task import Options, Task
from pipelines.plan.plan import Plan
from pipelines.support.errors import DataError, nearest

if TYPE_CHECKING:
    from pipelines.loading import ffcv_decode

_CACHES = ("os", "process")
_READERS = 12  # threads that wait for storage, as many as FFCV's
_TOGETHER = 8  # samples that one of them reads


@dataclass
class _Prepared:
    """What a task's slots need: jobs, and in a process's own cache the bytes, being read by `reads`, `_TOGETHER` slots
    each."""

    jobs: np.ndarray
    bytes: NDArray[np.uint8] | None = None
    reads: list[Future] = field(default_factory=list)


class FfcvLoader(NativeLoader):
    """`pipelines.loading.loader.Loader` on FFCV.

    settings: {"cache": "os"} (default) reads through the system's page cache, which all processes share, and tells it
    ahead what is wanted; {"cache": "process"} has threads of its own read the batches in flight into this process's
    memory, for file systems that the system caches badly.
    """

    backend = "ffcv"

    def __init__(self, dataset: Dataset, plan: Plan, options: Options) -> None:
        if not isinstance(dataset.source, Beton):
            raise DataError(
                f"backend 'ffcv' reads FFCV's files, and {dataset.path} holds {dataset.source.kind}: write one with "
                f"'python pipelines/prepare.py folder {dataset.path} --to beton', or choose another backend"
            )
        # Brings numba and FFCV's library: only for who has such a file, and not when "auto" looks at another dataset.
        from pipelines.loading import ffcv_decode

        self._ffcv = ffcv_decode
        cache = _wanted_cache(options)
        super().__init__(dataset, plan, options)
        if not plan.plain:
            self.remark += "; raw pixels by the native decoder, for FFCV's resize is bilinear and shows its box alone"
        self._file = dataset.source.path.open("rb", buffering=0)
        self._modified = int(dataset.entries(np.zeros(1, np.int64))["modified"][0])
        self._readers = ThreadPoolExecutor(_READERS, "read") if cache == "process" else None
        self._own = threading.local()
        self._decoders: list[ffcv_decode.Decoder] = []

    def _prepare(self, task: Task) -> _Prepared:
        prepared = _Prepared(self._jobs(task))
        if self._readers is not None:
            self._start_reading(prepared, self._readers)
        else:
            for place, size in zip(prepared.jobs["place"].tolist(), prepared.jobs["size"].tolist()):
                os.posix_fadvise(self._file.fileno(), place, size, os.POSIX_FADV_WILLNEED)
        return prepared

    def _jobs(self, task: Task) -> np.ndarray:
        """Structured array (n,) of `JOB`: a task as the compiled decoder takes it."""
        entries, (flags, orientations) = self.dataset.entries(task.indices), self.dataset.flags(task.indices)
        jobs = np.zeros(len(task), self._ffcv.JOB)
        for name in ("place", "size"):
            jobs[name] = entries[name]
        jobs["width"], jobs["height"] = self.dataset.sizes(task.indices).T
        jobs["left"], jobs["top"], jobs["box_width"], jobs["box_height"] = task.boxes.T
        jobs["flip"] = task.flips
        odd = (flags & (SLOW | Flag.UNREADABLE) != 0) | (orientations != 1)
        jobs["kind"] = np.where(odd, self._ffcv.IS_OTHER, self._ffcv.IS_JPEG)
        raw = (flags & (Flag.NOT_JPEG | Flag.UNREADABLE)) == Flag.NOT_JPEG  # whatever is no JPEG is stored as pixels
        jobs["kind"][raw] = self._ffcv.IS_RAW
        jobs["size"][raw] = 3 * jobs["width"][raw].astype(np.uint32) * jobs["height"][raw]
        if not self.plan.plain:
            jobs["kind"][raw if self._compiled is not None else slice(None)] = self._ffcv.IS_OTHER
        jobs["kind"][list(task.bad)] = self._ffcv.IS_OTHER
        return jobs

    def _start_reading(self, prepared: _Prepared, readers: ThreadPoolExecutor) -> None:
        jobs = prepared.jobs
        ends = np.cumsum(jobs["size"], dtype=np.int64)
        places = jobs["place"].copy()
        jobs["place"] = ends - jobs["size"]
        prepared.bytes = np.empty(int(ends[-1]), np.uint8)
        prepared.reads = [
            readers.submit(self._read, prepared, places, range(start, min(start + _TOGETHER, len(jobs))))
            for start in range(0, len(jobs), _TOGETHER)
        ]

    def _read(self, prepared: _Prepared, places: NDArray[np.uint64], slots: range) -> None:
        assert prepared.bytes is not None
        for slot in slots:
            start, size = int(prepared.jobs["place"][slot]), int(prepared.jobs["size"][slot])
            try:
                got = os.preadv(self._file.fileno(), [prepared.bytes[start : start + size].data], int(places[slot]))
            except OSError:
                got = -1
            if got != size:
                prepared.jobs["kind"][slot] = self._ffcv.IS_OTHER  # the native decoder says what is wrong

    def _unfilled(self, task: Task, draft: Any, slots: range) -> Sequence[int]:
        """Let the compiled decoders fill what they can; returns the slots that they leave or fail on, for the native one."""
        prepared = draft.prepared
        for read in prepared.reads[slots.start // _TOGETHER : (slots.stop - 1) // _TOGETHER + 1]:
            read.result()
        if os.fstat(self._file.fileno()).st_mtime_ns != self._modified:
            return slots  # the native decoder sees what is left of the file that was indexed
        here = slice(slots.start, slots.stop)
        jobs, done = prepared.jobs[here], np.zeros(len(slots), np.bool_)
        if self._compiled is not None:
            items, located = items_of(self.dataset, task, here)
            if prepared.bytes is not None:  # read already
                items["bytes"] = np.where(
                    jobs["kind"] == self._ffcv.IS_JPEG, prepared.bytes.ctypes.data + jobs["place"], 0
                )
            done = fast_decode.carry_out_items(self._compiled, items, draft.images[here])
            del located  # what kept the file open
            jobs = jobs.copy()
            jobs["kind"][jobs["kind"] == self._ffcv.IS_JPEG] = self._ffcv.IS_OTHER
        left: Sequence[int] = range(len(slots))
        if (jobs["kind"] != self._ffcv.IS_OTHER).any():
            pixels = draft.images[here].permute(0, 2, 3, 1).numpy()
            left = self._decoder().run(self._file.fileno(), prepared.bytes, jobs, pixels)
        return [slots[number] for number in left if not done[number]]

    def _decoder(self) -> "ffcv_decode.Decoder":
        """This thread's."""
        if not hasattr(self._own, "decoder"):
            self._own.decoder = self._ffcv.Decoder()
            self._decoders.append(self._own.decoder)
        return self._own.decoder

    def _discard(self, task: Task, handle: Any) -> None:
        for read in handle.prepared.reads:
            read.cancel()
        super()._discard(task, handle)
        wait(handle.prepared.reads)

    def _release(self) -> None:
        super()._release()
        if self._readers is not None:
            self._readers.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()
        self._file.close()


def _wanted_cache(options: Options) -> str:
    unknown = [name for name in options.settings if name != "cache"]
    if unknown:
        raise DataError(f"unknown FFCV setting {unknown[0]!r}{nearest(unknown[0], ['cache'])}; there is only 'cache'")
    cache = options.settings.get("cache", "os")
    if cache not in _CACHES:
        raise DataError(f"the FFCV setting 'cache' must be one of {', '.join(_CACHES)}, not {cache!r}")
    return cache
