"""DistributedDataParallel: every rank holds the whole network and the gradients are averaged."""

import inspect
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from engine.config.options import Config, StrategyConfig
from engine.distributed.strategy import Strategy
from engine.distributed.sync_batchnorm import synchronise_batchnorm
from engine.graphs.compilation import compiled
from engine.training.loaders import Batching
from launch.environment import Environment, LaunchError

# The ranks vote this often, if steps are shorter than that, since a vote costs each about 0.2 ms; but no later than after
# so many of them, since steps may become longer.
VOTE_SECONDS, MOST_CALLS = 0.02, 32

# The same switch under its name before and since torch 2.14.
SYNC_BUFFERS = "forward_sync_buffers"
if SYNC_BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    SYNC_BUFFERS = "broadcast_buffers"


class DdpStrategy(Strategy):
    """DistributedDataParallel over NCCL (GPUs) or gloo (CPUs)."""

    name = "ddp"

    def __init__(self, environment: Environment, device: torch.device, options: StrategyConfig):
        super().__init__(environment, device)
        timeout = timedelta(seconds=options.timeout)
        backend, device_id = ("nccl", device) if device.type == "cuda" else ("gloo", None)
        dist.init_process_group(
            backend,
            store=meet(environment),
            rank=self.rank,
            world_size=self.world_size,
            timeout=timeout,
            device_id=device_id,
        )
        # Host-side agreement has a group of its own, so that it never waits for work queued on the GPU.
        self._host_group: dist.ProcessGroup = dist.new_group(  # type: ignore[assignment]
            backend="gloo", timeout=timeout
        )
        self._options = options
        self._pending: tuple[dist.Work, Tensor] | None = None
        self._calls_to_vote = self._calls_between = 1
        self._voted = time.monotonic()

    def prepare(
        self, objective: nn.Module, optimizer: torch.optim.Optimizer, config: Config, batching: Batching
    ) -> Callable[..., Any]:
        if self._options.sync_batchnorm:
            synchronise_batchnorm(objective, self.device, config.compile.enabled)
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
        if exchange <= 0 or self.world_size == 1:  # alone, DDP measures what it costs to exchange nothing
            return {}
        return {"backward": (exchange - timed.get("backward_compute_comm_overlap_time", 0)) / 1e9}

    def sum(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def any(self, wishes: tuple[bool, ...]) -> tuple[bool, ...]:
        answer, calls = (False,) * len(wishes), 1
        self._calls_to_vote -= 1
        if self._calls_to_vote > 0:
            return answer
        if self._pending is not None:
            work, votes = self._pending
            work.wait()
            *found, slowest = votes.tolist()
            answer = tuple(bool(vote) for vote in found)
            # Counted from the slowest rank's time by every rank, so that all vote at the same call.
            calls = min(max(1, round(1e6 * VOTE_SECONDS) // max(1, slowest)), MOST_CALLS)
        now = time.monotonic()
        microseconds = min(round(1e6 * (now - self._voted) / self._calls_between), 2**31 - 1)
        self._calls_to_vote, self._calls_between, self._voted = calls, calls, now
        # What is granted now is not wished for again.
        wanted = [wish and not granted for wish, granted in zip(wishes, answer)]
        votes = torch.tensor([*wanted, microseconds], dtype=torch.int32)
        work = dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._host_group, async_op=True)
        assert work is not None
        self._pending = (work, votes)
        return answer

    def share_buffers(self, buffers: list[Tensor]) -> None:
        for buffer in buffers:
            dist.broadcast(buffer, src=0)

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._host_group)
        return values

    def barrier(self) -> None:
        dist.barrier(group=self._host_group)

    def close(self) -> None:
        if self._pending is not None:
            self._pending[0].wait()
        self.barrier()  # the launcher ends the others when one rank leaves early with a status that is not 0
        dist.destroy_process_group()


def meet(environment: Environment) -> dist.Store:
    """The run's key-value store, once every rank has reached it.

    A rank may come hours after the others, its machine having built an index of the dataset first: waiting here has no
    time limit, since the launcher ends all ranks when one fails.
    """
    try:
        store = dist.TCPStore(
            environment.master_address,
            environment.master_port,
            # torchrun's agent hosts the store; without one, the first rank does.
            is_master=environment.hosts_store,
            wait_for_workers=False,
        )
    except dist.DistNetworkError:
        if not environment.hosts_store:
            raise
        place = f"{environment.master_address}:{environment.master_port}"
        raise LaunchError(f"the ranks cannot meet at {place}, which another program uses: set MASTER_PORT") from None
    present = f"present/{environment.restart}"
    store.add(present, 1)
    while store.add(present, 0) < environment.world_size:
        time.sleep(0.05)
    return dist.PrefixStore(f"run/{environment.restart}", store)
