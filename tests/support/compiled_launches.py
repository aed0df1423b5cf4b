"""What torch.compile would launch on a GPU that is not there: kernels of a training step and the bytes they move.

A function is traced on the CPU, its graphs are moved to a pretended GPU, and inductor plans both of them, forward and
backward, as it would for a real one. What counts is read from its schedule; no kernel is written or compiled.

Bytes are those of each tensor read or written once by a kernel, of slices only the slice (inductor's own count); for
convolutions and matrix products, which are no Triton kernels, none are counted.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pretended_gpu import DEVICE


@dataclass(frozen=True)
class Launch:
    """A kernel of the plan: what it is, how often the GPU is called for it, and the bytes that it moves."""

    name: str
    backward: bool
    launches: int
    bytes: int
    triton: bool


def compiled_launches(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], options: dict[str, Any] | None = None
) -> list[Launch]:
    """The kernels of `function(*inputs)` and of its gradient, in order; `options` are inductor's. `pretend` must have run."""
    import torch._functorch.config
    from torch._inductor import compile_fx, config, graph

    found: list[list[Launch]] = []

    def planned(self: Any) -> Any:
        self.init_wrapper_code()
        self._update_scheduler()
        found.append([launch for node in self.scheduler.nodes for launch in _launches_of(node, bool(found))])
        return SimpleNamespace(call=_stop, __file__="planned.py", key="planned", runner=None)

    def on_gpu(module: torch.fx.GraphModule, examples: Sequence[Any], **options: Any) -> Any:
        _move(module)
        return compile_fx.compile_fx_inner(module, [_moved(example) for example in examples], **options)

    def backend(module: torch.fx.GraphModule, examples: Sequence[Any]) -> Any:
        return compile_fx.compile_fx(module, list(examples), inner_compile=on_gpu, config_patches=options)  # type: ignore[arg-type]

    graph.GraphLowering.compile_to_module = planned  # type: ignore[method-assign]
    torch._dynamo.config.recompile_limit = 64
    with (
        config.patch(fx_graph_cache=False),
        torch._functorch.config.patch(force_non_lazy_backward_lowering=True, enable_autograd_cache=False),
        contextlib.suppress(_Planned),
    ):
        torch.compile(function, backend=backend, dynamic=False)(*inputs)
    assert len(found) == 2, f"{len(found)} graphs, where a training step has one forward and one backward"
    return [launch for launches in found for launch in launches]


class _Planned(Exception):
    """The point from which on there would be something to run."""


def _stop(arguments: Any) -> Any:
    raise _Planned


def _move(module: torch.fx.GraphModule) -> None:
    """Puts a traced graph on the pretended GPU."""

    def moved(argument: Any) -> Any:
        return DEVICE if isinstance(argument, torch.device) and argument.type == "cpu" else argument

    for node in module.graph.nodes:
        for key in ("val", "example_value"):
            if key in node.meta:
                node.meta[key] = tree_map(_moved, node.meta[key])
        node.args = torch.fx.node.map_aggregate(node.args, moved)
        node.kwargs = torch.fx.node.map_aggregate(node.kwargs, moved)
    module.recompile()


def _moved(value: Any) -> Any:
    from torch._subclasses.fake_tensor import FakeTensor

    if not isinstance(value, FakeTensor) or value.device.type != "cpu":
        return value
    with value.fake_mode:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)


def _launches_of(node: Any, backward: bool) -> list[Launch]:
    """The launches of a node of inductor's schedule."""
    from torch._inductor import ir, scheduler

    if isinstance(node, scheduler.NopKernelSchedulerNode):
        return []
    if isinstance(node, scheduler.ForeachKernelSchedulerNode):
        moved = sum(part.get_read_write_buffers_sizes() for part in node.get_subkernel_nodes())
        return [Launch("combined", backward, _partitions(node), moved, True)]
    if not isinstance(node, scheduler.ExternKernelSchedulerNode):
        origins = {origin.name for part in node.get_nodes() for origin in part.node.get_origins()}
        name = "+".join(sorted({re.sub(r"_\d+$", "", origin) for origin in origins}))
        return [Launch(name, backward, 1, node.get_read_write_buffers_sizes(), True)]
    if isinstance(node.node, ir.UserDefinedTritonKernel):
        kernel = node.node.get_kernel_and_metadata()[0]
        return [Launch(kernel.__name__, backward, 1, _bytes_of_ours(node.node.kwargs), True)]
    if isinstance(node.node, ir.MultiOutput):
        return []  # a name for a part of another's result
    name = str(getattr(node.node, "op_overload", None) or getattr(node.node, "python_kernel_name", None))
    return [Launch(name, backward, 1, 0, False)]


def _bytes_of_ours(arguments: dict[str, Any]) -> int:
    """The bytes of a kernel's tensors; COUNT says how many of those that are numbered it looks at, and of a gradient d it
    reads what belongs to the x of the same number."""
    count, total = arguments.get("COUNT", 0), 0
    for name, value in arguments.items():
        numbered = re.fullmatch(r"[a-z](\d)", name)
        if not hasattr(value, "get_size") or (numbered and int(numbered[1]) >= count):
            continue
        read = arguments[f"x{name[1:]}"] if numbered and name[0] == "d" else value
        total += math.prod(int(length) for length in read.get_size()) * value.get_dtype().itemsize
    return total


def _partitions(node: Any) -> int:
    """Into how many kernels inductor divides the nodes that it combines."""
    from torch._inductor.codegen.triton_combo_kernel import ComboKernel
    from torch._inductor.virtualized import V

    class Divided(Exception):
        pass

    divide, parts = ComboKernel.horizontal_partition, []

    def seen(*arguments: Any, **options: Any) -> Any:
        parts.append(len(divide(*arguments, **options)))
        raise Divided

    ComboKernel.horizontal_partition = staticmethod(seen)  # type: ignore[method-assign]
    try:
        with contextlib.suppress(Divided):
            V.graph.scheduler.get_backend(node.get_device()).codegen_combo_kernel(node)
    finally:
        ComboKernel.horizontal_partition = staticmethod(divide)  # type: ignore[method-assign]
    return parts[0]
