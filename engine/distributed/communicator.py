"""How the ranks of a run speak with each other. Everything else in the engine asks its communicator, never the process
group. `Communicator` is one process alone; `process_group.py` has several.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from launch.environment import Environment
from pipelines.support.cores import usable_cores

T = TypeVar("T")


class Communicator:
    """One process, and the interface of all communicators."""

    rank, world_size = 0, 1
    # What a step takes this rank without waiting for others [seconds], as it tells them with its next vote.
    own_step_seconds = 0.0
    waited_for_votes = 0.0  # [seconds], added up until somebody sets it to 0

    def __init__(self, environment: Environment, device: torch.device):
        self.environment = environment
        self.rank, self.world_size = environment.rank, environment.world_size
        self.local_rank, self.local_world_size = environment.local_rank, environment.local_world_size
        self.device = device
        self.cores = usable_cores()  # that are this rank's own; several ranks divide what they share (cores.py)

    @property
    def is_main(self) -> bool:
        """Whether this rank is the one that writes files and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values` added up over the ranks, on every rank. The tensor is changed in place and returned."""
        return values

    def vote(self, wishes: tuple[bool, ...], conclude: bool) -> tuple[bool, ...]:
        """Which wishes at least one rank had, for every rank alike. Every rank must call it, as often as the others.

        Within a phase of steps (`conclude` false) the answer is that of an earlier call: wishes travel during the next steps,
        and several steps share an exchange. With `conclude`, at the end of a phase, all ranks wait and every wish counts. A
        wish must be made again to be granted again."""
        return wishes

    @property
    def step_seconds(self) -> list[float]:
        """Every rank's `own_step_seconds` as of the last vote, in order of rank; 0 for one that has told none yet."""
        return [self.own_step_seconds]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, in order of rank, on every rank."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The first rank's `value`, on every rank."""
        return value

    def from_first(self, decide: Callable[[], T]) -> T:
        """What `decide` returns on the first rank, alone to call it; what it raises there is raised on every rank."""
        answer: tuple[Any, Exception | None] = (None, None)
        if self.is_main:
            try:
                answer = (decide(), None)
            except Exception as error:
                answer = (None, error)
        value, refusal = self.broadcast(answer)
        if refusal is not None:
            raise refusal
        return value

    def share(self, tensors: list[Tensor]) -> None:
        """Gives every rank the first rank's `tensors`, in place."""

    def barrier(self) -> None:
        """Returns when every rank has arrived."""

    def close(self) -> None:
        """Leaves the process group; every rank must."""
