"""What optimizer and weight average launch on a GPU, counted without one: operations over all weights at once, each as many
kernels as its tensors need (ATen/native/cuda/MultiTensorApply.cuh)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config.options import OptimizerConfig
from engine.training.optimizers import create_optimizer
from engine.training.weight_averaging import Ema

# A kernel takes so many tensors, by the number of lists that it walks through together, and so many chunks of so many numbers.
_TENSORS, _CHUNKS, _CHUNK = (110, 64, 48, 36, 30), 320, 65536


def update_launches(network: nn.Module, options: OptimizerConfig) -> dict[str, int]:
    """Launches of a step of the optimizer that `options` name, and of the average after it, for `network` on the CPU."""
    optimizer, average = create_optimizer(network, options), Ema(network, 0.99)
    for group in optimizer.param_groups:
        if group.get("foreach") is None and not group.get("fused"):
            group["foreach"] = True  # what these optimizers choose on a GPU
    launches = {}
    for name, update in (("optimizer", optimizer.step), ("average", lambda: average.update(2))):
        for _ in range(2):  # the first also makes the optimizer's state
            for parameter in network.parameters():
                parameter.grad = torch.zeros_like(parameter)
            with _Launches() as counted:
                update()
        launches[name] = counted.total
    return launches


class _Launches(TorchDispatchMode):
    """Adds up the launches that operations would be on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        lists = [value for value in args if isinstance(value, list) and value and isinstance(value[0], Tensor)]
        if lists and not name.endswith("_"):
            lists.append(result)
        if lists and any(tensor.ndim for tensor in lists[0]):  # numbers of steps stay on the host
            lists = [value for value in lists if any(tensor.ndim for tensor in value)]
            self.total += launches_over([tensor.numel() for tensor in lists[0]], len(lists))
        elif not lists and isinstance(result, Tensor) and result.ndim:
            self.total += 1
        return result


def launches_over(sizes: Sequence[int], lists: int) -> int:
    """Kernels that one operation over tensors of these sizes launches, which walks through that many lists of them."""
    launches = tensors = blocks = 0
    for place, size in enumerate(sizes):
        tensors += 1
        chunks = math.ceil(size / _CHUNK)
        for chunk in range(1, chunks + 1):
            blocks += 1
            whole = chunk == chunks
            full = blocks == _CHUNKS or (whole and tensors == _TENSORS[lists - 1])
            if full or (whole and place == len(sizes) - 1):
                launches += 1
                tensors, blocks = (0 if whole else 1), 0
    return launches
