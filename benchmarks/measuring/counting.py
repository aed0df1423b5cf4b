"""Operations and bytes of each block of a network, forward and backward, from shapes alone: nothing is computed.

A network of meta tensors runs once, and every kernel that PyTorch would launch is seen. Operations are those of matrix
kernels (convolutions, linear layers), two a multiplication with its addition. Bytes are those of fused code: element-wise work
and concatenation cost nothing, being done where a neighbour reads or writes; a batch normalisation reads its input twice and
writes once forward (statistics, then normalise and ReLU), and makes five passes backward (two reads for the two sums, two
reads and a write for the gradient), eight in all; a convolution's backward pass is two kernels that both read the gradient;
pooling, residual sums and the rest read their inputs and write their outputs, once, in main memory.
"""

import math
from collections.abc import Callable
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
    """One kernel launch: its operator, operations, and bytes moved."""

    name: str
    operations: int
    bytes: int

    @property
    def launches(self) -> int:
        """Kernels that fused code launches: a normalisation's two passes, a convolution's two gradients, else one or none."""
        twice = self.name == "convolution_backward" or "batch_norm" in self.name
        return (2 if twice else 1) if self.bytes else 0


@dataclass
class Block:
    """What a direct child of a network does with one batch; `parameters` is the number of its weights, `auxiliary` whether it
    works in training only."""

    name: str
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

    @property
    def bytes(self) -> int:
        """Bytes of a training step."""
        return sum(kernel.bytes for kernel in self.kernels)

    @property
    def operations(self) -> int:
        """Operations of a training step."""
        return sum(kernel.operations for kernel in self.kernels)


class Counts:
    """What a whole network does in a training step on so many images: its blocks and kernels, the number of its weights, the
    launches of fused code, and the multiply-adds of an image's forward pass without the auxiliary heads."""

    def __init__(self, blocks: list[Block], images: int):
        self.blocks, self.images = blocks, images
        self.kernels = [kernel for block in blocks for kernel in block.kernels]
        self.parameters = sum(block.parameters for block in blocks)
        self.launches = sum(kernel.launches for kernel in self.kernels)
        self.macs = sum(block.macs for block in blocks if not block.auxiliary) / images


def counts(build: Callable[[], nn.Module], images: int, size: int = 0, dtype: torch.dtype = torch.float32) -> Counts:
    """Counts the network that `build` makes, for a training step on so many images, at `size` pixels a side or its own: by its
    direct children, in the order in which they run. `dtype` is that of activations and weights (bf16 halves the bytes)."""
    with torch.device("meta"):
        network = build().train().to(dtype)
    side = size or network.input_size
    blocks: list[Block] = []
    for name, module, inputs in block_inputs(network, torch.empty(images, 3, side, side, device="meta", dtype=dtype)):
        block = Block(name, sum(p.numel() for p in module.parameters()), name.startswith(AUXILIARY))
        inputs = inputs.detach().requires_grad_(bool(blocks))  # the first block need not differentiate the images
        working = inputs.clone()  # layers that work in place may not change a leaf
        with _Recorder(block.forward):
            output = module(working)
        with _Recorder(block.backward):
            if output.requires_grad:
                output.backward(torch.empty_like(output))
        if block.operations or block.bytes:
            blocks.append(block)
    return Counts(blocks, images)


def block_inputs(network: nn.Module, images: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Names, modules and inputs of the blocks of `network` in the order in which they run on `images`."""
    seen: list[tuple[str, nn.Module, Tensor]] = []
    names = {module: name for name, module in network.named_children()}

    def remember(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            seen.append((names[module], module, inputs[0].detach().clone()))

    hooks = [module.register_forward_pre_hook(remember) for module in names]
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
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not name.startswith(_NO_KERNEL) and name != "t":  # a matrix seen from its other side
            formula = flop_registry.get(func.overloadpacket)
            operations = int(formula(*args, **(kwargs or {}), out_val=result)) if formula else 0
            read, written = (
                [_bytes(leaf) for leaf in tree_leaves(side) if isinstance(leaf, Tensor)]
                for side in ([args, kwargs], result)
            )
            self._kernels.append(Kernel(name, operations, _moved(name, read, written)))
        return result


def _moved(name: str, read: list[int], written: list[int]) -> int:
    if "batch_norm" in name:
        return NORM_PASSES["backward" if "backward" in name else "forward"] * max(read)
    if name == "convolution_backward":
        gradient, image, weight = read[:3]
        kernels = 2 if len(written) > 2 or image in written else 1  # the image's gradient may not be wanted
        return kernels * (gradient + image + weight)
    return 0 if name.startswith(_POINTWISE) else sum(read) + sum(written)


def _bytes(tensor: Tensor) -> int:
    """Those of counters and other single numbers do not matter."""
    return math.prod(tensor.shape) * tensor.element_size() if tensor.ndim else 0
