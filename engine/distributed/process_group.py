"""Several ranks speaking over torch.distributed: NCCL among GPUs, gloo among CPUs."""

import os
import socket
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.distributed.communicator import Communicator
from engine.distributed.rendezvous import meet
from launch.environment import Environment

_LOOPBACK = "lo"  # Linux's interface of a machine to itself
# The ranks vote this often, if steps are shorter than that, since a vote among a thousand may take as long as a step; but no
# later than after so many calls, since steps may become longer, as of larger images in the next phase.
VOTE_SECONDS, MOST_CALLS = 1.0, 32


class ProcessGroup(Communicator):
    """The ranks that a launcher started, once all have met; `timeout` is how long one waits for the others [seconds]."""

    def __init__(self, environment: Environment, device: torch.device, timeout: float):
        super().__init__(environment, device)
        patience = timedelta(seconds=timeout)
        if self.world_size == self.local_world_size and _LOOPBACK in (name for _, name in socket.if_nameindex()):
            # Left to itself gloo looks for the host's name, and for 127.0.0.1 where that has no address: some have IPv6 alone.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)
        # A connection when it is first used, of which reductions and broadcasts need few; else each rank has one to every other.
        os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
        # NCCL's own threads would end a rank that was suspended for longer than their eight minutes.
        os.environ.setdefault("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", str(round(timeout)))
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
        self._pending: tuple[dist.Work, Tensor, list[Tensor] | None] | None = None
        self._step_seconds = [0.0] * self.world_size
        # Calls of `vote` from one exchange to the next, as agreed; calls since the last one; when that was.
        self._interval, self._calls, self._exchanged = 1, 0, time.monotonic()

    def sum(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def vote(self, wishes: tuple[bool, ...], conclude: bool) -> tuple[bool, ...]:
        self._calls += 1
        if self._calls < self._interval and not conclude:
            return (False,) * len(wishes)
        granted = self._answer(len(wishes))
        # What is granted now is not wished for again.
        self._exchange([wish and not answer for wish, answer in zip(wishes, granted)])
        if conclude:
            pace = self._interval
            granted = tuple(map(any, zip(granted, self._answer(len(wishes)))))
            self._interval = pace  # what passed since the last exchange may have been no step
        return granted

    def _exchange(self, wishes: list[bool]) -> None:
        """Tells the first rank this one's wishes, how long a call takes here, and a step. It will answer all, down a tree: gloo's
        reductions pass around a ring of the ranks, among 256 in 130,000 messages, where these are 510."""
        now = time.monotonic()
        microseconds = min(round(1e6 * (now - self._exchanged) / self._calls), 2**31 - 1)
        self._calls, self._exchanged = 0, now
        own = min(round(1e6 * self.own_step_seconds), 2**31 - 1)
        told = torch.tensor([*wishes, microseconds, own], dtype=torch.int32)
        all_told = [torch.empty_like(told) for _ in range(self.world_size)] if self.is_main else None
        work = dist.gather(told, all_told, dst=0, group=self._host_group, async_op=True)
        assert work is not None
        self._pending = (work, told, all_told)

    def _answer(self, count: int) -> tuple[bool, ...]:
        """What the exchange that is under way granted of `count` wishes; nothing when there is none."""
        if self._pending is None:
            return (False,) * count
        (work, _, all_told), self._pending = self._pending, None
        began = time.monotonic()
        work.wait()
        answer = torch.empty(count + 1 + self.world_size, dtype=torch.int32)
        if all_told is not None:
            table = torch.stack(all_told)
            answer = torch.cat([table[:, :-1].amax(0), table[:, -1]])
        dist.broadcast(answer, src=0, group=self._host_group)
        self.waited_for_votes += time.monotonic() - began
        granted, slowest, told = answer[:count].tolist(), int(answer[count]), answer[count + 1 :].tolist()
        self._step_seconds = [microseconds / 1e6 for microseconds in told]
        # From the slowest rank's time on every rank, so that all exchange at the same call.
        self._interval = min(max(1, round(1e6 * VOTE_SECONDS) // max(1, slowest)), MOST_CALLS)
        return tuple(map(bool, granted))

    @property
    def step_seconds(self) -> list[float]:
        return self._step_seconds

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
