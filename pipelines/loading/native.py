"""The backend that needs nothing but torch: threads that read, decode, crop and resize straight into batch buffers.

Threads, not processes: everything a sample costs happens in C++ with the interpreter lock released, nothing is copied
between processes, and memory does not grow with their number. On a GPU the buffers are pinned and cross on a stream of
their own, started by the thread that finishes a batch, while the GPU computes on the batch before.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pipelines.datasets.dataset import Dataset
from pipelines.decoding import fast_decode, whole_jpeg
from pipelines.decoding.decode import empty_images
from pipelines.loading.batch import Batch, decoding_threads
from pipelines.loading.items import items_of
from pipelines.loading.loader import Loader
from pipelines.loading.task import Failure, Options, Task
from pipelines.plan.plan import Plan
from pipelines.support.errors import DataError, nearest

_PIECE = 1 << 18  # output pixels: about two milliseconds of work
_ON_DEVICE = "planes_on_device"  # the one setting


@dataclass
class _Draft:
    """A batch in the making: host buffers, and the slices of it that threads are at work on; prepared: what a subclass
    needs to carry them out."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    unfinished: int
    prepared: Any = None
    failures: dict[int, Failure] = field(default_factory=dict)
    slices: list[Future] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    abandoned: bool = False
    copied: torch.cuda.Event | None = None
    host: tuple[Tensor, ...] = ()  # keeps pinned buffers alive while they cross


class NativeLoader(Loader):
    """`pipelines.loading.loader.Loader` on threads of this process."""

    backend = "native"

    def __init__(self, dataset: Dataset, plan: Plan, options: Options) -> None:
        super().__init__(dataset, plan, options)
        self._pool = decoding_threads(options.workers, options.device)
        self._compiled, why = fast_decode.library()
        self._singly.compiled = self._compiled
        self.remark = f"; whole images by {whole_jpeg.named()}"
        if self._compiled is None:
            self.remark += f"; without the compiled decoder, which is faster ({why})"
        self._on_gpu = options.device.type == "cuda"
        self._stream = torch.cuda.Stream(options.device) if self._on_gpu else None

    def _submit(self, task: Task) -> _Draft:
        slices = self._slices(task)
        draft = _Draft(
            images=self._images(task),
            labels=torch.from_numpy(task.labels.copy()),
            indices=torch.from_numpy(task.indices.copy()),
            unfinished=slices,
            prepared=self._prepare(task),
        )
        if self._on_gpu:
            draft.labels = draft.labels.pin_memory()
        bounds = [len(task) * number // slices for number in range(slices + 1)]
        draft.slices = [self._pool.submit(self._fill, task, draft, *ends) for ends in pairwise(bounds)]
        return draft

    def _images(self, task: Task) -> Tensor:
        """Where the batch is made."""
        return empty_images(len(task), task.resolution, pinned=self._on_gpu)

    def _slices(self, task: Task) -> int:
        """Into how many pieces a task is cut: one a thread, and of larger images up to four, so that threads finish a
        batch together; a piece of small images would cost more in handing over than in work."""
        workers = self._options.workers
        by_work = len(task) * task.resolution**2 // _PIECE
        return min(len(task), max(workers, min(by_work, 4 * workers)))

    def _prepare(self, task: Task) -> Any:
        return None

    def _fill(self, task: Task, draft: _Draft, start: int, stop: int) -> None:
        """Carry out the slots start..stop of a task; the thread that ends last sends the batch on its way."""
        if not draft.abandoned:
            self._carry_out(task, draft, range(start, stop))
        if draft.abandoned:
            return
        with draft.lock:
            draft.unfinished -= 1
            complete = draft.unfinished == 0
        if complete:
            self._send(draft)

    def _carry_out(self, task: Task, draft: _Draft, slots: range) -> None:
        """Neighbouring slots: what the compiled decoder can do in one call, then the others one by one."""
        left = self._unfilled(task, draft, slots)
        self._carry_out_singly(task, draft, left, [draft.images[slot : slot + 1] for slot in left])

    def _unfilled(self, task: Task, draft: _Draft, slots: range) -> Sequence[int]:
        """Let the compiled decoder fill what it can; returns the slots left to do."""
        if self._compiled is None:
            return slots
        here = slice(slots.start, slots.stop)
        items, located = items_of(self.dataset, task, here)
        done = fast_decode.carry_out_items(self._compiled, items, draft.images[here])
        del located  # what kept the files open
        return [slot for slot, is_done in zip(slots, done.tolist()) if not is_done]

    def _carry_out_singly(self, task: Task, draft: _Draft, slots: Sequence[int], outs: Sequence[Tensor]) -> None:
        """outs: for each slot the image (1, 3, size, size) to make."""
        for slot, out in zip(slots, outs):
            if draft.abandoned:
                return
            failure = self._singly.carry_out(task, slot, out, draft.labels, draft.indices)
            if failure is not None:
                draft.failures[slot] = failure

    def _send(self, draft: _Draft) -> None:
        """Have a batch whose slots are all carried out on the device."""
        draft.host = (draft.images, draft.labels)
        if self._stream is None:
            draft.images = self._on_device(draft)
            return
        with torch.cuda.stream(self._stream):
            draft.images = self._on_device(draft)
            draft.labels = draft.labels.to(self.device, non_blocking=True)
            draft.copied = torch.cuda.Event()
            draft.copied.record()

    def _on_device(self, draft: _Draft) -> Tensor:
        """The images of a batch, on the device."""
        return draft.images.to(self.device, non_blocking=True)

    def _collect(self, task: Task, handle: _Draft) -> tuple[Batch, list[Failure]]:
        for future in handle.slices:
            future.result()
        if handle.copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(handle.copied)
            # The memory belongs to the copying stream's pool; it may be reused only once the consumer's work is done.
            handle.images.record_stream(stream)
            handle.labels.record_stream(stream)
        failures = [handle.failures[slot] for slot in sorted(handle.failures)]
        return Batch(handle.images, handle.labels, handle.indices), failures

    def _discard(self, task: Task, handle: _Draft) -> None:
        handle.abandoned = True
        for future in handle.slices:
            future.cancel()
        wait(handle.slices)

    def _release(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def native_loader(dataset: Dataset, plan: Plan, options: Options) -> NativeLoader:
    """The native loader; with the setting {"planes_on_device": True} (default: False) one that has a GPU resize planes, in
    training. Where it is asked for and cannot be, the loader's `remark` says why."""
    unknown = [name for name in options.settings if name != _ON_DEVICE]
    if unknown:
        raise DataError(
            f"unknown native setting {unknown[0]!r}{nearest(unknown[0], [_ON_DEVICE])}; there is only {_ON_DEVICE!r}"
        )
    if not options.settings.get(_ON_DEVICE, False):
        return NativeLoader(dataset, plan, options)
    from pipelines.loading.native_planes import PlanesLoader, why_not  # made of this module's loader

    why = why_not(dataset, plan, options.device)
    loader = (NativeLoader if why else PlanesLoader)(dataset, plan, options)
    if why:
        loader.remark += f"; planes are resized on the CPU, although {_ON_DEVICE} is set: {why}"
    return loader
