"""How the ranks of a run work together. Everything else in the engine asks its strategy and never the process group.

`Strategy` is one process; `ddp.py` and `deepspeed.py` override what several ranks do differently.
"""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.config.options import Config, ConfigError, StrategyConfig
from engine.graphs.compilation import compiled
from engine.training.optimizers import load_named_state, named_state
from launch.environment import Environment

if TYPE_CHECKING:
    from engine.training.loaders import Batching


class Strategy:
    """One process, and the interface of all strategies."""

    name = "single"

    def __init__(self, environment: Environment, device: torch.device):
        self.rank, self.world_size = environment.rank, environment.world_size
        self.local_rank, self.local_world_size = environment.local_rank, environment.local_world_size
        self.device = device

    @property
    def is_main(self) -> bool:
        """Whether this rank is the one that writes files and speaks."""
        return self.rank == 0

    def prepare(
        self, objective: nn.Module, optimizer: torch.optim.Optimizer, config: Config, batching: "Batching"
    ) -> Callable[..., Any]:
        """What the training step calls: the objective, wrapped for gradient exchange and compiled as asked."""
        self._remember(objective, optimizer)
        return compiled(objective, config.compile)

    def _remember(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        network: nn.Module = objective.network  # type: ignore[assignment]
        self._optimizer = optimizer
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._names = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}

    def without_exchange(self) -> AbstractContextManager[Any]:
        """Within it, backward passes only accumulate gradients on this rank."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss`."""
        loss.backward()

    def update(self, clip_norm: float | None, measure: bool) -> Tensor | None:
        """Clips the gradients, moves the weights, forgets the gradients. Returns the norm before clipping, when
        clipping needed it or `measure` asks for it."""
        norm = None
        if clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._parameters, clip_norm)
        elif measure:
            norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def time_exchange(self) -> None:
        """Has the step that begins now timed for `exchange_seconds`."""

    def exchange_seconds(self) -> dict[str, float]:
        """How long the phases of the step timed last, or of one shortly before it, waited for the other ranks beyond
        their own computing, by phase; empty where that is not measured or nothing is exchanged."""
        return {}

    @property
    def can_discard(self) -> bool:
        """Whether `discard` works: whether gradients can be computed and left unused."""
        return True

    def discard(self) -> None:
        """Forgets the gradients without moving the weights."""
        self._optimizer.zero_grad(set_to_none=True)

    def set_learning_rate(self, lr: float) -> None:
        """Sets the learning rate of every parameter group."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state by name of parameter, the same on every strategy. Every rank must call it; only the
        first one's result need be complete."""
        return named_state(self._optimizer, self._names)

    def load_optimizer_state(self, state: dict[str, dict[str, Any]]) -> None:
        """Takes over what `optimizer_state` gave under any strategy and number of ranks."""
        load_named_state(self._optimizer, self._names, state)

    def sum(self, values: Tensor) -> Tensor:
        """`values` added up over the ranks, on every rank. The tensor is changed in place and returned."""
        return values

    def any(self, wishes: tuple[bool, ...]) -> tuple[bool, ...]:
        """Which wishes at least one rank had. With several ranks the answer is that of an earlier call, for every rank
        alike: the exchange overlaps the next step, and short steps share one. A wish must be made again to be granted again."""
        return wishes

    def share_buffers(self, buffers: list[Tensor]) -> None:
        """Gives every rank the first rank's `buffers` (batch normalisation's statistics)."""

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, in order of rank, on every rank."""
        return [value]

    def barrier(self) -> None:
        """Returns when every rank has arrived."""

    def close(self) -> None:
        """Leaves the process group; every rank must."""


def choose_device(environment: Environment) -> torch.device:
    """This rank's GPU, or the CPU on a machine without. Sets the process up for it.

    Raises ConfigError when the machine has GPUs, but fewer than ranks.
    """
    if torch.cuda.is_available():
        if environment.local_world_size > torch.cuda.device_count():
            raise ConfigError(
                f"{environment.local_world_size} processes on a machine with {torch.cuda.device_count()} GPUs: "
                "start one process a GPU (--nproc_per_node)"
            )
        device = torch.device("cuda", environment.local_rank)
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        return device
    # torchrun sets one thread a process unless told otherwise; the ranks of a machine share all its cores.
    torch.set_num_threads(max(1, usable_cores() // environment.local_world_size))
    return torch.device("cpu")


def usable_cores() -> int:
    """The CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether the forward and backward pass compute in bf16: as told, or ("auto") where the device has units for it."""
    if precision != "auto":
        return precision == "bf16"
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()


def make_deterministic() -> None:
    """Only deterministic kernels from here on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def create_strategy(environment: Environment, options: StrategyConfig) -> Strategy:
    """The strategy that `options` names, on this rank's device; joins the process group where there is one.

    Raises ConfigError when it does not fit how the run was started.
    """
    name = options.name
    if name == "auto":
        name = "ddp" if environment.distributed else "single"
    if name == "single" and environment.world_size > 1:
        raise ConfigError(
            f"--strategy.name single cannot use {environment.world_size} processes: start one, or use ddp"
        )
    if name != "single" and not environment.distributed:
        raise ConfigError(f"--strategy.name {name} needs a launcher: torchrun --nproc_per_node=N engine/train.py")
    device = choose_device(environment)
    if name == "ddp":
        from engine.distributed.ddp import DdpStrategy

        return DdpStrategy(environment, device, options)
    if name == "deepspeed":
        from engine.distributed.deepspeed import DeepSpeedStrategy

        return DeepSpeedStrategy(environment, device, options)
    return Strategy(environment, device)
