"""One sample at a time, by the decoder that knows every form: what is left over by faster ones, and what stands in for a sample
that cannot be read."""

import ctypes

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.datasets.dataset import Dataset
from pipelines.datasets.image_headers import cut_by_c
from pipelines.decoding import fast_decode
from pipelines.decoding.decode import crop_resize_into, decode_known
from pipelines.loading.task import Failure, Task
from pipelines.plan.plan import EvalPlan, Plan
from pipelines.support.errors import DataError


class Singly:
    """Carries out single samples of a plan; skip: one that cannot be read is replaced in training, and not only marked.

    compiled: the decoder in C, where the loader uses it: a sample whose file failed it for a moment keeps its pixels.
    """

    compiled: ctypes.CDLL | None = None

    def __init__(self, dataset: Dataset, plan: Plan, skip: bool) -> None:
        self._dataset, self._plan, self._skip = dataset, plan, skip
        self._unreadable = dataset.unreadable()

    def carry_out(self, task: Task, slot: int, out: Tensor, labels: Tensor, indices: Tensor) -> Failure | None:
        """Carry out one slot of a task.

        Writes out: uint8 (1, 3, size, size) channels_last, and the slot of labels and indices, int64 (n,). Called from
        threads. Returns the failure that was met, if any.
        """
        failure = task.bad.get(slot)
        if failure is None:
            draw = self._plan.draws(task.epoch, task.positions[slot : slot + 1], task.indices[slot : slot + 1])
            failure = self._load(
                task.epoch, int(task.indices[slot]), draw, task.boxes[slot], bool(task.flips[slot]), out
            )
            if failure is None:
                return None
        if not self._skip or isinstance(self._plan, EvalPlan):
            labels[slot] = -1
            out.zero_()
        else:
            self._substitute(task.epoch, int(task.positions[slot]), slot, out, labels, indices)
        return failure

    def _substitute(self, epoch: int, position: int, slot: int, out: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Fill a slot with the first readable sample that follows in the epoch's order, wherever that is."""
        for step in range(1, self._plan.length):
            place = np.array([(position + step) % self._plan.length])
            index = self._plan.order(epoch, place)
            if np.isin(index, self._unreadable)[0]:
                continue
            draw = self._plan.draws(epoch, place, index)
            box = self._plan.boxes(epoch, draw, self._dataset.sizes(index))[0]
            if self._load(epoch, int(index[0]), draw, box, bool(self._plan.flips(epoch, draw)[0]), out) is None:
                labels[slot], indices[slot] = int(self._dataset.labels(index)[0]), int(index[0])
                return
        raise DataError(f"no image of {self._dataset.path} can be read")

    def _load(
        self, epoch: int, index: int, draw: NDArray[np.int64], box: NDArray[np.int32], flip: bool, out: Tensor
    ) -> Failure | None:
        at = np.array([index])
        try:
            size = self._dataset.sizes(at)
            data = self._dataset.read(index)
            if (self._dataset.sizes(at) != size).any():  # the file changed since the box was cut for it
                box = self._plan.boxes(epoch, draw, self._dataset.sizes(at))[0]
            flags, orientation = self._dataset.flags(at)
            views, bicubic = self._plan.views(box[None], out.shape[-1]), bool(self._plan.bicubic(epoch, draw)[0])
            if self.compiled is not None and cut_by_c(flags)[0]:
                what = [data], np.array([len(data)]), box[np.newaxis], np.array([flip]), out
                turn = int(orientation[0])
                if fast_decode.carry_out(self.compiled, *what, orientation=turn, views=views, bicubic=bicubic)[0]:
                    return None
            image = decode_known(data, int(flags[0]), int(orientation[0]))
            crop_resize_into(out, image, box.tolist(), flip, views[0].tolist(), bicubic)
        except DataError as error:
            name = self._dataset.name(index)
            return Failure(name, str(error).removeprefix(f"{name}: "))
        return None
