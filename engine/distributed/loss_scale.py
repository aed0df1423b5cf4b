"""Loss scaling for fp16, whose smallest numbers are larger than many gradients."""

from typing import Any

import torch
from torch import Tensor

# With less than this the loss is made smaller, which no sound gradient needs: something else is wrong.
LEAST = 1.0


class LossScale:
    """The factor that a loss is multiplied with before the backward pass, and gradients are divided by after it.

    A step whose gradients are not finite is left out and the factor halved; after 2,000 good ones in a row it is doubled. The
    gradients looked at are the sum over the ranks, so that all ranks decide alike. Source: mixed precision training (arXiv
    1710.03740), section 3.2; torch.amp.GradScaler.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device):
        self._optimizer = optimizer
        self._scaler = torch.amp.GradScaler(device.type)
        self._one = torch.ones((), device=device)
        self._left_out = torch.zeros((), dtype=torch.int64, device=device)
        self._left_out_now = torch.zeros((), dtype=torch.bool, device=device)
        _begin_momentum(optimizer)

    def scaled(self, loss: Tensor) -> Tensor:
        """`loss` times the factor."""
        return self._scaler.scale(loss)

    def unscale(self) -> None:
        """Divides the optimizer's gradients by the factor."""
        self._scaler.unscale_(self._optimizer)

    def step(self) -> None:
        """Moves the weights, unless a gradient is not finite, and adapts the factor. On a GPU, fused optimizers do not make
        the host wait for it."""
        before = self.scaled(self._one)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._left_out_now = self.scaled(self._one) < before
        self._left_out += self._left_out_now

    @property
    def value(self) -> float:
        """The factor; waits for the device."""
        return float(self._scaler.get_scale())

    @property
    def left_out(self) -> bool:
        """Whether the last step was left out; waits for the device."""
        return bool(self._left_out_now)

    @property
    def steps_left_out(self) -> int:
        """How many steps were left out since the run began; waits for the device."""
        return int(self._left_out)

    def state_dict(self) -> dict[str, Any]:
        return {**self._scaler.state_dict(), "steps_left_out": self.steps_left_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)
        self._left_out.fill_(state["steps_left_out"])


def _begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Gives SGD its momentum, zero, before the first step. torch's fused one makes the memory for it in the first step and
    fills it only if that is not left out; what happened to lie there would be the momentum of the second."""
    for group in optimizer.param_groups if isinstance(optimizer, torch.optim.SGD) else ():
        for parameter in group["params"] if group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
