"""What all backends share: the position in the data, a rank's share of each global batch, prefetching, bad samples.

A backend is a subclass that starts work on a task (`_submit`) and later waits for its batch (`_collect`).
"""

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.datasets.dataset import Dataset
from pipelines.loading.batch import Batch, to_device
from pipelines.loading.singly import Singly
from pipelines.loading.task import Failure, Options, Task
from pipelines.plan.plan import EvalPlan, Plan
from pipelines.support.errors import DataError

# Samples whose place in the order is worked out at once: for a single batch, the calls cost more than the numbers.
_AHEAD = 2048


class Loader(ABC):
    """Batches of one rank, from the current position to the end of its epoch at each iteration.

    dataset, plan: what it loads; backend: its name; reason: why that backend, and its
    `remark`, what there is to say about it here; substitutions: (sample name, reason) of
    each sample of this rank that could not be read since the epoch began, in order.
    A loader is a context manager and gives one iteration at a time: a new one ends the one before.
    """

    backend: str
    reason: str = ""
    remark: str = ""

    def __init__(self, dataset: Dataset, plan: Plan, options: Options) -> None:
        self.dataset, self.plan = dataset, plan
        self.substitutions: list[Failure] = []
        self._options = options
        self._resolution = options.resolution
        self._seen = 0
        self._in_flight: deque[tuple[Task, Any]] = deque()
        self._iteration = 0
        self._closed = False
        plan.views(np.ones((1, 4), np.int32), options.resolution)  # says now what would be wrong with each batch
        # Mixed samples must lie in one micro-batch: pairs are dealt whole.
        self._unit = 2 if not isinstance(plan, EvalPlan) and plan.augmentation.mixes else 1
        if options.batch_size % self._unit or plan.global_batch % self._unit:
            raise DataError(
                f"mixup and cutmix mix pairs: a batch of {options.batch_size} and a global batch of {plan.global_batch} must "
                "both be even"
            )
        if plan.global_batch < self._unit * options.world_size:
            each = " of a pair each" if self._unit == 2 else ""
            raise DataError(
                f"the global batch of {plan.global_batch} is smaller than the {options.world_size} ranks{each}; raise it"
            )
        self._unreadable = dataset.unreadable()
        self._singly = Singly(dataset, plan, options.skip)
        if len(self._unreadable) == len(dataset):
            raise DataError(
                f"no image of {dataset.path} can be read; the first is {dataset.name(0)}: {dataset.reason(0)}"
            )
        if len(self._unreadable) and not options.skip:
            first, more = int(self._unreadable[0]), len(self._unreadable) - 1
            raise DataError(
                f"{dataset.name(first)}: {dataset.reason(first)}{f' (and {more} more)' if more else ''}; repair it, list it "
                "in a quarantine file, or skip bad images"
            )

    def __len__(self) -> int:
        """Micro-batches of a whole epoch on this rank."""
        full = self.plan.batches - 1
        return full * len(self._parts(0)) + len(self._parts(full))

    def _parts(self, batch: int) -> list[tuple[int, int]]:
        """This rank's micro-batches of a global batch, as first positions and those after the last: its share cut into as many
        parts as the largest share needs, which differ by a sample at most (a pair where samples are mixed)."""
        start, stop = self.plan.span(batch)
        count, rank, ranks = (stop - start) // self._unit, self._options.rank, self._options.world_size
        first, last = rank * count // ranks, (rank + 1) * count // ranks
        parts = -(-count // ranks) * self._unit
        parts = -(-parts // self._options.batch_size)
        cuts = [start + self._unit * (first + part * (last - first) // parts) for part in range(parts + 1)]
        return [(begin, end) for begin, end in itertools.pairwise(cuts) if begin < end]

    @property
    def device(self) -> torch.device:
        return self._options.device

    @property
    def resolution(self) -> int:
        """Side of the images in pixels; when set, it holds from the next batch handed out on."""
        return self._resolution

    @resolution.setter
    def resolution(self, resolution: int) -> None:
        if resolution < 1:
            raise DataError(f"resolution must be at least 1, not {resolution}")
        self._resolution = resolution

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of an epoch, counted from 0."""
        if epoch < 0:
            raise DataError(f"epoch must be at least 0, not {epoch}")
        self._move(epoch * self.plan.samples)

    def state_dict(self) -> dict[str, int]:
        """{"samples_seen": samples of the whole run, over all ranks, in global batches handed out completely}."""
        return {"samples_seen": self._seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Move to where a loader of any backend and any number of ranks, but the same plan, gave `state`."""
        seen = int(state["samples_seen"])
        offset = seen % self.plan.samples
        if seen < 0 or offset % self.plan.global_batch:
            raise DataError(
                f"position {seen} lies within a global batch of {self.plan.global_batch}; go on with the global batch and "
                "the dataset that the run was started with"
            )
        self._move(seen)

    def _move(self, seen: int) -> None:
        self._stop()
        self._seen = seen
        self.substitutions.clear()

    def __iter__(self) -> Iterator[Batch]:
        if self._closed:
            raise DataError("the loader is closed")
        self._stop()
        if self._seen % self.plan.samples == 0:
            self.substitutions.clear()
        return self._batches(self._iteration)

    def _batches(self, iteration: int) -> Iterator[Batch]:
        end = (self._seen // self.plan.samples + 1) * self.plan.samples
        tasks = self._tasks()
        try:
            while iteration == self._iteration:
                while len(self._in_flight) <= self._options.prefetch and (task := next(tasks, None)):
                    self._in_flight.append((task, self._submit(task)))
                if not self._in_flight:
                    self._seen = end  # also on a rank that the last global batch holds nothing for
                    return
                self._apply_resolution()
                task, handle = self._in_flight.popleft()
                batch, failures = self._collect(task, handle)
                self._report(failures)
                self._seen = task.seen
                yield self._augmented(task, batch)
        finally:
            if iteration == self._iteration:
                self._stop()

    def _tasks(self) -> Iterator[Task]:
        """The rest of the epoch that the current position lies in."""
        epoch, cuts = self._seen // self.plan.samples, self._cuts()
        while group := list(itertools.islice(cuts, max(1, _AHEAD // self._options.batch_size))):
            indices = self.plan.order(epoch, np.concatenate([positions for positions, _ in group]))
            labels, begin = self.dataset.labels(indices), 0
            for positions, seen in group:
                here = slice(begin, begin + len(positions))
                yield self._task(epoch, positions, indices[here], labels[here], seen)
                begin = here.stop

    def _cuts(self) -> Iterator[tuple[NDArray[np.int64], int]]:
        """The positions of each micro-batch of the rest of the epoch, and the run's samples that it completes."""
        epoch, offset = divmod(self._seen, self.plan.samples)
        before = epoch * self.plan.samples
        for batch in range(offset // self.plan.global_batch, self.plan.batches):
            begin, end = self.plan.span(batch)
            parts = self._parts(batch)
            for first, last in parts:
                yield np.arange(first, last), before + (end if last == parts[-1][1] else begin)

    def _task(
        self,
        epoch: int,
        positions: NDArray[np.int64],
        indices: NDArray[np.int64],
        labels: NDArray[np.int64],
        seen: int,
    ) -> Task:
        bad: dict[int, Failure] = {}
        for slot in np.flatnonzero(np.isin(indices, self._unreadable)) if len(self._unreadable) else ():
            index = int(indices[slot])
            bad[int(slot)] = Failure(self.dataset.name(index), self.dataset.reason(index))
        draws = self.plan.draws(epoch, positions, indices)
        boxes = self.plan.boxes(epoch, draws, self.dataset.sizes(indices))
        views = self.plan.views(boxes, self._resolution)
        flips, bicubic = self.plan.flips(epoch, draws), self.plan.bicubic(epoch, draws)
        return Task(epoch, positions, indices, labels, boxes, views, flips, bicubic, self._resolution, seen, bad)

    def _augmented(self, task: Task, batch: Batch) -> Batch:
        """The batch with the plan's augmentation, which crosses to the device in one piece."""
        if isinstance(self.plan, EvalPlan):
            return batch
        draws = self.plan.draws(task.epoch, task.positions, batch.indices.numpy())
        arrays = self.plan.augmentations(task.epoch, draws, task.resolution)
        if not arrays:
            return batch
        # One after the other, so that each lies densely, as the graphs that are compiled ahead expect it.
        flat = to_device(torch.from_numpy(np.concatenate([array.ravel() for array in arrays.values()])), self.device)
        pieces = flat.split([array.size for array in arrays.values()])
        parts = {name: piece.view(arrays[name].shape) for name, piece in zip(arrays, pieces)}
        return replace(batch, augmentation=parts)

    def _apply_resolution(self) -> None:
        """Start again what was begun at another resolution than is now wanted."""
        if all(task.resolution == self._resolution for task, _ in self._in_flight):
            return
        old = list(self._in_flight)
        self._stop_work()
        for task, _ in old:
            views = self.plan.views(task.boxes, self._resolution)
            task = replace(task, resolution=self._resolution, views=views)
            self._in_flight.append((task, self._submit(task)))

    def _report(self, failures: list[Failure]) -> None:
        if failures and not self._options.skip:
            name, reason = failures[0]
            raise DataError(f"{name}: {reason}; repair it, list it in a quarantine file, or skip bad images")
        self.substitutions += failures

    def _stop(self) -> None:
        """End the iteration under way, if any."""
        self._iteration += 1
        self._stop_work()

    def _stop_work(self) -> None:
        while self._in_flight:
            self._discard(*self._in_flight.popleft())

    def close(self) -> None:
        """Stop all work and free threads, processes and buffers; the loader cannot be used again."""
        if not self._closed:
            self._stop()
            self._closed = True
            self._release()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _submit(self, task: Task) -> Any:
        """Start work on a task; returns what `_collect` and `_discard` need. Tasks are collected in order."""

    @abstractmethod
    def _collect(self, task: Task, handle: Any) -> tuple[Batch, list[Failure]]:
        """Wait for a task's batch; also its samples that could not be read, in order."""

    def _discard(self, task: Task, handle: Any) -> None:  # noqa: B027  # some backends have nothing to give up
        """Give up a task whose batch nobody wants."""

    def _release(self) -> None:  # noqa: B027  # nor to free
        """Free what the backend holds; called once."""
