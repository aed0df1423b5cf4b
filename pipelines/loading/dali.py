"""The backend on NVIDIA DALI: decodes on the GPU (nvJPEG and the JPEG engine) where there is one, else on the CPU.

DALI decides nothing: it is fed the bytes or paths, boxes and flips of each task, and its output is handed to torch
without a copy. Images that its decoders treat differently (CMYK, rotated by EXIF, not JPEG, cut off) go to the native
decoder. An image that stops DALI at run time costs one rebuilt pipeline and never the run.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import nvidia.dali
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline
from PIL import Image
from torch import Tensor

from pipelines.datasets.dataset import Dataset
from pipelines.datasets.image_headers import WHOLE, Flag
from pipelines.decoding import fast_decode
from pipelines.decoding.decode import empty_images
from pipelines.loading import nvjpeg
from pipelines.loading.batch import Batch, decoding_threads, to_device
from pipelines.loading.dali_inputs import Inputs, feed, inputs_of
from pipelines.loading.loader import Loader
from pipelines.loading.task import Failure, Options, Task
from pipelines.plan.plan import Plan
from pipelines.support.errors import DataError, nearest

# DALI makes its operators when it is imported: no type checker knows them.
fn: Any = nvidia.dali.fn
types: Any = nvidia.dali.types

_SURVEYED = 10_000  # samples whose sizes stand for the dataset's when memory is set aside


@dataclass(frozen=True)
class Settings:
    """What can be tuned; the CPU pipeline uses `cut` alone.

    hw_decoder_load: share of a batch that the JPEG engine decodes, the rest goes to CUDA cores; width_hint, height_hint:
    pixels that decoder memory is set aside for (0: the largest of a sample of the dataset); device_padding,
    host_padding: bytes set aside for each; affinity: bind threads to the cores nearest to the GPU (NUMA). cut: hand DALI only
    what the box shows of a JPEG whose restart markers let it be cut out; by default on a CPU alone.
    """

    hw_decoder_load: float = 0.65
    width_hint: int = 0
    height_hint: int = 0
    device_padding: int = 16 << 20
    host_padding: int = 8 << 20
    affinity: bool = True
    cut: bool | None = None


@dataclass
class _Handle:
    """A task under way: which slots DALI carries out, and the native work on the others."""

    regular: NDArray[np.int64]
    labels: Tensor
    indices: Tensor
    odd: dict[int, tuple[Tensor, Future]] = field(default_factory=dict)
    inputs: Inputs | None = None  # fed without a copy: alive until the batch is collected


class DaliLoader(Loader):
    """`pipelines.loading.loader.Loader` on DALI."""

    backend = "dali"

    def __init__(self, dataset: Dataset, plan: Plan, options: Options) -> None:
        super().__init__(dataset, plan, options)
        unknown = [name for name in options.settings if name not in Settings.__dataclass_fields__]
        if unknown:
            raise DataError(f"unknown DALI setting {unknown[0]!r}{nearest(unknown[0], Settings.__dataclass_fields__)}")
        self._settings = Settings(**options.settings)
        self._on_gpu = options.device.type == "cuda"
        # nvImageCodec's decoders on a GPU refuse a box of an image whose colours they interpolate (4:2:0, nearly every photo): it
        # is decoded on the CPU then, with a warning for each. It asks for nvJPEG 13.2, but an H100 refused with 13.3 as well.
        self._cuts_in_decoder = not self._on_gpu
        if self._on_gpu:
            found = nvjpeg.version()
            named = "no nvJPEG found" if found is None else f"nvJPEG {found[0]}.{found[1]}"
            self.remark = f"; {named}: whole images are decoded, then cropped, on the GPU"
        self._pool = decoding_threads(2, options.device)
        self._readers = decoding_threads(options.workers, options.device)
        self._cutter, why = None, ""
        if self._cuts_in_decoder if self._settings.cut is None else self._settings.cut:
            self._cutter, why = fast_decode.library()
        if why:
            self.remark += f"; JPEGs with restart markers are not cut, for want of the compiled decoder ({why})"
        self._by_path = dataset.source.kind == "folders" and self._cutter is None
        self._avoided: set[int] = set()  # samples that stopped DALI, or came with one that did
        self._pipeline = self._build()

    def _build(self) -> Pipeline:
        """A pipeline that takes one more task each time it is scheduled."""
        options, settings = self._options, self._settings
        depth = options.prefetch + 1
        gpu: dict[str, Any] = {}
        if self._on_gpu:
            width, height = self._hints()
            gpu = {
                "hw_decoder_load": settings.hw_decoder_load,
                "preallocate_width_hint": settings.width_hint or width,
                "preallocate_height_hint": settings.height_hint or height,
                "device_memory_padding": settings.device_padding,
                "host_memory_padding": settings.host_padding,
            }
        pipeline = Pipeline(
            batch_size=options.batch_size,
            num_threads=options.workers,
            device_id=(options.device.index or 0) if self._on_gpu else None,
            prefetch_queue_depth=depth,
            exec_dynamic=True,
            set_affinity=self._on_gpu and settings.affinity,
        )
        with pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
            numbers = [("start", 1), ("shape", 1), ("flip", 0), ("size", 1), ("filter", 0)]
            start, shape, flip, size, filter_ = (
                fn.external_source(name=name, dtype=types.INT32, ndim=ndim) for name, ndim in numbers
            )
            begin, end = (fn.external_source(name=name, dtype=types.FLOAT, ndim=1) for name in ("begin", "end"))
            if self._by_path:
                # Not mapped: DALI never closes an empty file then, and one cut short while mapped would end the process.
                encoded = fn.io.file.read(encoded, dont_use_mmap=True)
            box: dict[str, Any] = {"start": start, "shape": shape, "axes": [1, 0]}
            decode = fn.decoders.image_slice if self._cuts_in_decoder else fn.decoders.image
            images = decode(
                encoded,
                device="mixed" if self._on_gpu else "cpu",
                output_type=types.RGB,
                jpeg_fancy_upsampling=True,
                adjust_orientation=False,  # what is to be turned goes to the native decoder
                **(box if self._cuts_in_decoder else {}),
                **gpu,
            )
            if not self._cuts_in_decoder:
                images = fn.slice(images, **box)
            images = fn.resize(
                images,
                size=fn.cast(size, dtype=types.FLOAT),
                roi_start=begin,
                roi_end=end,
                interp_type=fn.reinterpret(filter_, dtype=types.INTERP_TYPE),
                antialias=True,
            )
            pipeline.set_outputs(fn.flip(images, horizontal=flip))
        pipeline.build()
        self._warm_up(pipeline, depth)
        return pipeline

    def _warm_up(self, pipeline: Pipeline, depth: int) -> None:
        """DALI's first run fills its whole queue; done on blank images, each later one is a single task's."""
        with TemporaryDirectory() as folder:
            file = Path(folder, "blank.jpg")
            Image.new("RGB", (16, 16)).save(file)
            blank = np.frombuffer(str(file).encode() if self._by_path else file.read_bytes(), np.uint8)
            for _ in range(depth):
                whole, no = np.array([[0, 0, 16, 16]], np.int32), np.array([False])
                feed(pipeline, [blank], whole, np.array([[16, 16, 0, 0]], np.int32), no, no, 16)
            pipeline.schedule_run()
            for _ in range(depth):
                pipeline.share_outputs()
                pipeline.release_outputs()

    def _hints(self) -> tuple[int, int]:
        some = np.linspace(0, len(self.dataset) - 1, min(len(self.dataset), _SURVEYED)).astype(np.int64)
        width, height = self.dataset.sizes(some).max(axis=0).tolist()
        return width, height

    def _submit(self, task: Task) -> _Handle:
        flags, orientations = self.dataset.flags(task.indices)
        odd = (flags & int(WHOLE | Flag.UNREADABLE) != 0) | (orientations != 1)
        odd[list(task.bad)] = True
        if self._avoided:
            odd |= np.isin(task.indices, list(self._avoided))
        handle = _Handle(
            np.flatnonzero(~odd), torch.from_numpy(task.labels.copy()), torch.from_numpy(task.indices.copy())
        )
        self._start_native(task, handle, np.flatnonzero(odd).tolist())
        self._feed(task, handle)
        return handle

    def _start_native(self, task: Task, handle: _Handle, slots: Sequence[int]) -> None:
        for slot in slots:
            out = empty_images(1, task.resolution)
            work = self._pool.submit(self._singly.carry_out, task, slot, out, handle.labels, handle.indices)
            handle.odd[slot] = (out, work)

    def _feed(self, task: Task, handle: _Handle) -> None:
        handle.inputs = inputs_of(self.dataset, task, handle.regular, self._cutter, self._readers)
        # A shard that changed: the native decoder says which sample it was, or replaces it.
        self._start_native(task, handle, np.setdiff1d(handle.regular, handle.inputs.slots).tolist())
        handle.regular = handle.inputs.slots
        if len(handle.regular):
            self._schedule(task, handle)

    def _schedule(self, task: Task, handle: _Handle) -> None:
        assert handle.inputs is not None
        slots, encoded, boxes = handle.inputs
        how = task.views[slots], task.flips[slots], task.bicubic[slots], task.resolution
        feed(self._pipeline, encoded, boxes, *how)
        self._pipeline.schedule_run()

    def _collect(self, task: Task, handle: _Handle) -> tuple[Batch, list[Failure]]:
        images = self._images(task, handle) if len(handle.regular) else None
        failures = {slot: failure for slot, (_, work) in sorted(handle.odd.items()) if (failure := work.result())}
        if handle.odd:
            images = self._merged(task, handle, images)
        assert images is not None
        return Batch(images, to_device(handle.labels, self.device), handle.indices), list(failures.values())

    def _images(self, task: Task, handle: _Handle) -> Tensor | None:
        """What DALI made of the regular slots; none when an image stopped it, and all slots went to native decoding."""
        try:
            stream = torch.cuda.current_stream(self.device) if self._on_gpu else None
            (output,) = self._pipeline.share_outputs(cuda_stream=stream)
            images = torch.from_dlpack(output.as_tensor())
            self._pipeline.release_outputs()
            return images.permute(0, 3, 1, 2)
        except RuntimeError:
            self._recover(task, handle)
            return None

    def _recover(self, task: Task, handle: _Handle) -> None:
        """Carry a task out natively, and start the tasks behind it again on a new pipeline: the old one is lost."""
        self._pipeline = self._build()
        slots = handle.regular
        handle.regular = np.empty(0, np.int64)
        self._start_native(task, handle, slots.tolist())
        culprits = [slot for slot in slots.tolist() if handle.odd[slot][1].result() is not None]
        self._avoided.update(task.indices[culprits or slots].tolist())
        for later, its_handle in self._in_flight:
            if len(its_handle.regular):
                self._schedule(later, its_handle)

    def _merged(self, task: Task, handle: _Handle, images: Tensor | None) -> Tensor:
        """The whole batch, from DALI's slots and the native ones."""
        merged = empty_images(len(task), task.resolution)
        for slot, (out, _) in handle.odd.items():
            merged[slot] = out[0]
        merged = merged.to(self.device)
        if images is not None:
            merged[torch.from_numpy(handle.regular).to(self.device)] = images
        return merged

    def _discard(self, task: Task, handle: _Handle) -> None:
        for _, work in handle.odd.values():
            work.cancel()
        if len(handle.regular):
            try:
                self._pipeline.share_outputs()
                self._pipeline.release_outputs()
            except RuntimeError:
                self._pipeline = self._build()
                for later, its_handle in self._in_flight:
                    if len(its_handle.regular):
                        self._schedule(later, its_handle)

    def _release(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)
        del self._pipeline
