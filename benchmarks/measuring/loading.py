"""Loaders and decoders as subjects: ours by any backend, and libjpeg-turbo with nothing else to do."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.measuring.measure import Subject, Window, drained
from pipelines import Dataset, TrainPlan, build_loader
from pipelines.decoding.whole_jpeg import usable

AHEAD = 5  # batches that our backends make before they are asked for, and until stock FFCV has touched all its buffers


def loaded(dataset: Dataset, backend: str, options: Any) -> Subject:
    """Our loader of random crops by a backend, as `options` (batch_size, resolution, workers) say."""
    shape = {name: getattr(options, name) for name in ("batch_size", "resolution", "workers")}
    plan = TrainPlan(len(dataset), options.batch_size, seed=1)
    return drained(partial(build_loader, dataset, plan, backend, **shape), ahead=AHEAD)


def decoded(encoded: Sequence[Tensor], threads: int) -> Subject:
    """libjpeg-turbo on each of the JPEGs, uint8 (n,), to its full size, in so many threads."""

    def window() -> Window:
        with ThreadPoolExecutor(threads) as pool:
            started, used = time.perf_counter(), time.process_time()
            list(pool.map(usable()[0].decode, encoded))
            seconds = time.perf_counter() - started
            return Window(len(encoded), seconds, cores=(time.process_time() - used) / seconds)

    return window
