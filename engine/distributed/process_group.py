"""Several ranks speaking over torch.distributed: NCCL among GPUs, gloo among CPUs."""

import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.distributed.communicator import Communicator
from engine.distributed.rendezvous import meet
from launch.environment import Environment

# The ranks vote this often, if steps are shorter than that, since a vote costs each about 0.2 ms; but no later than after
# so many of them, since steps may become longer.
VOTE_SECONDS, MOST_CALLS = 0.02, 32


class ProcessGroup(Communicator):
    """The ranks that a launcher started, once all have met; `timeout` is how long one waits for the others [seconds]."""

    def __init__(self, environment: Environment, device: torch.device, timeout: float):
        super().__init__(environment, device)
        patience = timedelta(seconds=timeout)
        backend, device_id = ("nccl", device) if device.type == "cuda" else ("gloo", None)
        dist.init_process_group(
            backend,
            store=meet(environment),
            rank=self.rank,
            world_size=self.world_size,
            timeout=patience,
            device_id=device_id,
        )
        # Host-side agreement has a group of its own, so that it never waits for work queued on the GPU.
        self._host_group: dist.ProcessGroup = dist.new_group(  # type: ignore[assignment]
            backend="gloo", timeout=patience
        )
        self._pending: tuple[dist.Work, Tensor] | None = None
        self._calls_to_vote = self._calls_between = 1
        self._voted = time.monotonic()

    def sum(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def vote(self, wishes: tuple[bool, ...]) -> tuple[bool, ...]:
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

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._host_group)
        return values

    def broadcast(self, value: Any) -> Any:
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._host_group)
        return values[0]

    def share(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        dist.barrier(group=self._host_group)

    def close(self) -> None:
        if self._pending is not None:
            self._pending[0].wait()
        self.barrier()  # the launcher ends the others when one rank leaves early with a status that is not 0
        dist.destroy_process_group()
