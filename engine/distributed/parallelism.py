"""How a step is shared among ranks: gradients, the update, the optimizer's state.

`Parallelism` is one process; `ddp.py` and `deepspeed.py` override what several ranks do differently.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from engine.config.batching import Batching
from engine.config.options import Config, StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.loss_scale import LossScale
from engine.distributed.optimizer_state import load_named_state, named_state
from engine.graphs.compilation import compiled
from engine.graphs.objective import Objective


class Parallelism:
    """One process, and the interface of all strategies."""

    name = "single"

    def __init__(self, communicator: Communicator, options: StrategyConfig):
        self.communicator, self.device = communicator, communicator.device
        self._options = options
        self.loss_scale: LossScale | None = None

    def prepare(
        self, objective: Objective, optimizer: torch.optim.Optimizer, config: Config, batching: Batching
    ) -> Callable[..., Any]:
        """What the training step calls: the objective, wrapped for gradient exchange and compiled as asked."""
        self._remember(objective, optimizer)
        return compiled(objective, config.compile)

    def _remember(self, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        network = objective.network
        self._optimizer = optimizer
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.loss_scale = LossScale(optimizer, self.device) if objective.dtype == torch.float16 else None
        self._names = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}

    def without_exchange(self) -> AbstractContextManager[Any]:
        """Within it, backward passes only accumulate gradients on this rank."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss`."""
        (loss if self.loss_scale is None else self.loss_scale.scaled(loss)).backward()

    def update(self, clip_norm: float | None, measure: bool) -> Tensor | None:
        """Clips the gradients, moves the weights, forgets the gradients. Returns the norm before clipping, when
        clipping needed it or `measure` asks for it and the step was not left out (`LossScale`)."""
        norm = None
        if self.loss_scale is not None:
            self.loss_scale.unscale()
        if clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._parameters, clip_norm)
        elif measure:
            norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if self.loss_scale is None:
            self._optimizer.step()
        else:
            self.loss_scale.step()
        self._optimizer.zero_grad(set_to_none=True)
        return None if measure and self.loss_scale is not None and self.loss_scale.left_out else norm

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

    def set_learning_rate(self, lr: float, momentum: float | None = None) -> None:
        """Sets the learning rate of every parameter group, which may be a multiple of the run's, and the momentum, or the first
        beta, where one is given and the optimizer has it."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
            if momentum is None:
                continue
            if "momentum" in group:
                group["momentum"] = momentum
            elif group.get("betas") is not None:
                group["betas"] = (momentum, *group["betas"][1:])

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state by name of parameter, the same on every strategy. Every rank must call it; only the
        first one's result need be complete."""
        return named_state(self._optimizer, self._names)

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Takes over what `state_dict` gave under any strategy and number of ranks."""
        load_named_state(self._optimizer, self._names, state)
