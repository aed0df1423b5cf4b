"""The native backend where a GPU resizes planes: a thread's work for an image is to read the rows that its box shows.

The rows of a batch lie in one pinned buffer (`pipelines/decoding/staging.py`), which crosses in one copy; a kernel makes images
of it there (`pipelines/decoding/resize_kernel.py`). What is no planes, or cannot be read as such, is made on the host as ever and
crosses beside. Order, boxes and everything else are the plan's and `NativeLoader`'s.
"""

import functools
import importlib.util
import os
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from torch import Tensor

from pipelines.datasets import y4m
from pipelines.datasets.dataset import Dataset
from pipelines.decoding import fast_decode
from pipelines.decoding.decode import empty_images
from pipelines.decoding.staging import Staging
from pipelines.loading.batch import to_device
from pipelines.loading.fastest import first_line
from pipelines.loading.items import items_of, wanted_of
from pipelines.loading.native import NativeLoader, _Draft
from pipelines.loading.task import Options, Task
from pipelines.plan.plan import EvalPlan, Plan

_WIDTH, _HEIGHT, _BOX, _SIDE = 48, 40, (5, 7, 21, 19), 18  # of the test pictures
_CHROMA = ((2, 2), (2, 1), (1, 1), (0, 0))  # how many pixels across and down one of it covers, in each of them


def why_not(dataset: Dataset, plan: Plan, device: torch.device) -> str:
    """Why the planes of a dataset are not resized on `device`; nothing where they are."""
    if not dataset.holds_planes:
        return "the dataset holds none"
    if isinstance(plan, EvalPlan):
        return "evaluation shows the same pixels on every device"
    planes, others = dataset.planes_and_images()
    if planes < others:
        return f"the dataset holds {planes:,} beside {others:,} encoded images"
    compiled, why = fast_decode.library()
    if compiled is None:
        return f"there is no compiled decoder to read their rows ({why})"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":  # with which a CPU stands for one, slowly
        return "the device is no GPU"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        off = _off(device)
    except Exception as error:  # what compiles and launches kernels may fail in any way
        return f"Triton fails here ({first_line(error)})"
    return f"its kernel is {off} levels off on test pictures" if off > 1 else ""


@functools.cache
def _off(device: torch.device) -> int:
    """How many levels the kernel is off the compiled decoder at most: each sampling of chroma, filter and mirroring."""
    from pipelines.decoding.resize_kernel import resize

    compiled, _ = fast_decode.library()
    assert compiled is not None
    cases = list(product(_CHROMA, (False, True), (False, True)))
    items, files = np.zeros(len(cases), fast_decode.ITEM), []
    for item, (covered, bicubic, flip) in zip(items, cases):
        picture = y4m.Picture(_WIDTH, _HEIGHT, *covered, 0)
        pixels = (np.arange(picture.size) // 7).astype(np.uint8)
        files.append(np.frombuffer(y4m.header_of(*picture[:4]) + pixels.tobytes(), np.uint8))
        item["bytes"], item["size"] = files[-1].ctypes.data, len(files[-1])
        item["bicubic"], item["flip"] = bicubic, flip
    items["planes"] = items["orientation"] = 1
    items["left"], items["top"], items["width"], items["height"] = _BOX
    items["across"] = items["down"] = _SIDE
    staging = Staging(compiled, items, np.full((len(items), 2), (_WIDTH, _HEIGHT)), _SIDE)
    wanted, made = empty_images(len(items), _SIDE), empty_images(len(items), _SIDE).to(device)
    staging.read(items)
    fast_decode.carry_out_items(compiled, items, wanted)
    resize(staging.buffer.to(device), made)
    return int((made.cpu().int() - wanted.int()).abs().max())


@dataclass
class _Prepared:
    """A batch's rows, and what is made on the host instead: slots and their images."""

    staging: Staging
    others: list[tuple[np.ndarray, Tensor]] = field(default_factory=list)


class PlanesLoader(NativeLoader):
    """`NativeLoader` whose planes are resized on the device."""

    def __init__(self, dataset: Dataset, plan: Plan, options: Options) -> None:
        from pipelines.decoding.resize_kernel import resize

        super().__init__(dataset, plan, options)
        self._resize = resize
        _, others = dataset.planes_and_images()
        self.remark += "; planes are resized on the GPU" + (f", {others:,} other images on the CPU" if others else "")

    def _images(self, task: Task) -> Tensor:
        with torch.cuda.stream(self._stream):
            shape = (len(task), task.resolution, task.resolution, 3)
            return torch.empty(shape, dtype=torch.uint8, device=self.device).permute(0, 3, 1, 2)

    def _prepare(self, task: Task) -> _Prepared:
        assert self._compiled is not None
        items, sizes = wanted_of(self.dataset, task, slice(None)), self.dataset.sizes(task.indices)
        return _Prepared(Staging(self._compiled, items, sizes, task.resolution, pinned=self._on_gpu))

    def _carry_out(self, task: Task, draft: _Draft, slots: range) -> None:
        assert self._compiled is not None
        items, located = items_of(self.dataset, task, slice(slots.start, slots.stop))
        there = draft.prepared.staging.read(items, slots.start)
        left = slots.start + np.flatnonzero(~there)
        if len(left):
            images = empty_images(len(left), task.resolution)
            undone = np.flatnonzero(~fast_decode.carry_out_items(self._compiled, items[~there], images))
            outs = [images[place : place + 1] for place in undone]
            self._carry_out_singly(task, draft, left[undone].tolist(), outs)
            draft.prepared.others.append((left, images))
        del located  # what kept the files open

    def _on_device(self, draft: _Draft) -> Tensor:
        prepared = draft.prepared
        self._resize(prepared.staging.buffer.to(self.device, non_blocking=True), draft.images)
        if prepared.others:
            slots, images = zip(*prepared.others)
            places = to_device(torch.from_numpy(np.concatenate(slots)), self.device)
            made = to_device(torch.cat(images).permute(0, 2, 3, 1).contiguous(), self.device)
            draft.images.permute(0, 2, 3, 1).index_copy_(0, places, made)
        return draft.images
