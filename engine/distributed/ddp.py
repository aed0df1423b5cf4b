"""DistributedDataParallel: every rank holds the whole network and the gradients are averaged."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from engine.config.batching import Batching
from engine.config.options import Config
from engine.distributed.parallelism import Parallelism
from engine.distributed.sync_batchnorm import synchronise_batchnorm
from engine.graphs.compilation import compiled
from engine.graphs.objective import Objective

# The same switch under its name before and since torch 2.14.
SYNC_BUFFERS = "forward_sync_buffers"
if SYNC_BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    SYNC_BUFFERS = "broadcast_buffers"


class DataParallelism(Parallelism):
    """DistributedDataParallel over the communicator's process group."""

    name = "ddp"

    def prepare(
        self, objective: Objective, optimizer: torch.optim.Optimizer, config: Config, batching: Batching
    ) -> Callable[..., Any]:
        if self._options.sync_batchnorm:
            synchronise_batchnorm(objective, self.device, config.compile.enabled, bool(batching.uneven_ranks))
        self._remember(objective, optimizer)
        self._wrapped = DistributedDataParallel(
            objective,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            # The first rank's statistics are the run's: they are shared when evaluation or a resumed run needs them.
            **{SYNC_BUFFERS: False},  # type: ignore[arg-type]
            # A static graph lets DDP order its buckets once; it cannot leave out exchanges, as accumulation wants.
            static_graph=batching.micro_batches == 1,
        )
        if self._options.compress_gradients:
            self._wrapped.register_comm_hook(None, bf16_compress_hook)
        # Compiled outside of the wrapper, the graph is cut at DDP's buckets and their exchange overlaps the backward pass.
        return compiled(self._wrapped, config.compile)

    def without_exchange(self) -> AbstractContextManager[Any]:
        return self._wrapped.no_sync()

    def exchange_seconds(self) -> dict[str, float]:
        # DDP itself times its first ten steps and then every hundredth, in nanoseconds.
        timed = self._wrapped._get_ddp_logging_data()
        exchange = timed.get("backward_comm_time", 0)
        if exchange <= 0 or self.communicator.world_size == 1:  # alone, DDP measures what it costs to exchange nothing
            return {}
        return {"backward": (exchange - timed.get("backward_compute_comm_overlap_time", 0)) / 1e9}
