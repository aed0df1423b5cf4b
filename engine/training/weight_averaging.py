"""Exponential moving average of a network's weights and batch statistics."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Ema:
    """Averages parameters and floating-point buffers, with TensorFlow's early correction: the decay of update t is
    min(decay, (1 + t) / (10 + t)), so that the random start is forgotten soon.

    Evaluating the running average of the weights: Inception-v3 paper (arXiv 1512.00567), section 8.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self._source = _averaged(network)
        self._average = {name: tensor.detach().clone() for name, tensor in self._source.items()}

    def update(self, step: int) -> None:
        """Moves the average towards the network; `step` counts the optimizer steps done, from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.values()), list(self._source.values()), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the network holds the averaged weights. Tensors stay where they are, so compiled graphs hold."""
        source, average = list(self._source.values()), list(self._average.values())
        kept = [tensor.detach().clone() for tensor in source]
        with torch.no_grad():
            torch._foreach_copy_(source, average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(source, kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the network's own names."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over averages saved by `state_dict` or a network's whole state; names it lacks raise KeyError."""
        for name, tensor in self._average.items():
            tensor.copy_(state[name])

    def buffers(self, network: nn.Module) -> list[Tensor]:
        """The averages of `network`'s buffers alone."""
        return [self._average[name] for name, _ in network.named_buffers() if name in self._average]


def _averaged(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in network.state_dict(keep_vars=True).items() if tensor.is_floating_point()}
