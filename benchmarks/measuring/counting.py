"""Operations and bytes of each block of a network, forward and backward, from shapes alone: nothing is computed.

A network of meta tensors runs once, and every kernel that PyTorch would launch is seen. Operations are those of matrix
kernels (convolutions, linear layers), two a multiplication with its addition. Bytes are counted under two assumptions:

- *eager*: every kernel reads its inputs and writes its outputs, once, in main memory;
- *fused*: element-wise work and concatenation cost nothing, being done where a neighbour reads or writes; a batch
  normalisation reads its input twice and writes once forward (statistics, then normalise and ReLU), and makes five passes
  backward (two reads for the two sums, two reads and a write for the gradient), eight in all; a convolution's backward
  pass is two kernels that both read the gradient; pooling, residual sums and the rest as in eager.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# The network's own heads, which the published counts leave out.
AUXILIARY = ("auxiliary", "AuxLogits", "aux")
# Passes over an activation of a fused normalisation with ReLU.
NORM_PASSES = {"forward": 3, "backward": 5}
# Names of operators, or how they begin.
_NO_KERNEL = (
    "view", "_unsafe_view", "expand", "transpose", "permute", "slice", "squeeze", "unsqueeze", "detach", "alias",
    "as_strided", "empty", "new_empty",
)  # fmt: skip
_POINTWISE = (
    "relu", "threshold_backward", "cat", "mul", "div", "dropout", "ones_like", "fill", "zero", "_to_copy", "clone",
    "copy_", "bernoulli", "narrow", "select_backward", "addcmul",
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """One kernel launch: its operator, operations, and bytes moved under the two assumptions."""

    name: str
    operations: int
    eager_bytes: int
    fused_bytes: int

    @property
    def launches(self) -> int:
        """Kernels that fused code launches: a normalisation's two passes, a convolution's two gradients, else one or none."""
        twice = self.name == "convolution_backward" or "batch_norm" in self.name
        return (2 if twice else 1) if self.fused_bytes else 0


@dataclass
class Block:
    """What a direct child of a network does with one batch.

    `shape` is its input; `parameters` the number of its weights; `auxiliary` whether it works in training only.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int = 0
    auxiliary: bool = False
    forward: list[Kernel] = field(default_factory=list)
    backward: list[Kernel] = field(default_factory=list)

    @property
    def kernels(self) -> list[Kernel]:
        """All kernels of a training step."""
        return [*self.forward, *self.backward]

    @property
    def macs(self) -> float:
        """Multiplications with their additions of the forward pass, of the whole batch."""
        return sum(kernel.operations for kernel in self.forward) / 2

    def bytes(self, fused: bool = True) -> int:
        """Bytes of a training step."""
        return sum(kernel.fused_bytes if fused else kernel.eager_bytes for kernel in self.kernels)

    @property
    def operations(self) -> int:
        """Operations of a training step."""
        return sum(kernel.operations for kernel in self.kernels)


def count(network: nn.Module, images: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> list[Block]:
    """The blocks of `network` for a training step on `images` (N, C, H, W), in the order in which they run.

    The network must be on the meta device and in training mode; its blocks are its direct children. `dtype` is that of
    activations and weights (bf16 halves the bytes).
    """
    network = network.to(dtype)
    blocks: list[Block] = []
    for name, module, inputs in block_inputs(network, torch.empty(images, device="meta", dtype=dtype)):
        block = Block(
            name, tuple(inputs.shape), sum(p.numel() for p in module.parameters()), name.startswith(AUXILIARY)
        )
        inputs = inputs.detach().requires_grad_(bool(blocks))  # the first block need not differentiate the images
        working = inputs.clone()  # layers that work in place may not change a leaf
        with _Recorder(block.forward):
            output = module(working)
        with _Recorder(block.backward):
            if output.requires_grad:
                output.backward(torch.empty_like(output))
        if block.operations or block.bytes():
            blocks.append(block)
    return blocks


def block_inputs(network: nn.Module, images: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Names, modules and inputs of the blocks of `network` in the order in which they run on `images`."""
    seen: list[tuple[str, nn.Module, Tensor]] = []

    def remember(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                seen.append((name, module, inputs[0].detach().clone()))

        return hook

    hooks = [module.register_forward_pre_hook(remember(name)) for name, module in network.named_children()]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


class _Recorder(TorchDispatchMode):
    """Appends every kernel that runs within it to a list."""

    def __init__(self, kernels: list[Kernel]):
        super().__init__()
        self._kernels = kernels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if not name.startswith(_NO_KERNEL) and name != "t":  # a matrix seen from its other side
            formula = flop_registry.get(func.overloadpacket)
            operations = formula(*args, **kwargs, out_val=result) if formula else 0
            read = [_bytes(leaf) for leaf in tree_leaves([args, kwargs]) if isinstance(leaf, Tensor)]
            written = [_bytes(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            eager = sum(read) + sum(written)
            self._kernels.append(Kernel(name, int(operations), eager, _fused_bytes(name, read, written)))
        return result


def _fused_bytes(name: str, read: list[int], written: list[int]) -> int:
    if "batch_norm" in name:
        return NORM_PASSES["backward" if "backward" in name else "forward"] * max(read)
    if name == "convolution_backward":
        gradient, image, weight = read[:3]
        to_image = gradient + weight + image if len(written) > 2 or image in written else 0
        return to_image + gradient + image + weight
    if name.startswith(_POINTWISE):
        return 0
    return sum(read) + sum(written)


def _bytes(tensor: Tensor) -> int:
    if not tensor.ndim:  # counters and other single numbers
        return 0
    return math.prod(tensor.shape) * tensor.element_size()
