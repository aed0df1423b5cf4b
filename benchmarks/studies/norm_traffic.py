"""Predicts what normalisation and ReLU cost a training step: bytes, and the bound that follows, for each way to run them.

    python benchmarks/studies/norm_traffic.py --networks inception_v3 inception_v4 inception_resnet_v2 --batch-size 128

Nothing is timed: operations and bytes are counted from shapes, on any machine, and set against the limits given. Ways:

- *eager*: every operator reads its inputs and writes its outputs, a normalisation as often as its sums need;
- *torch.compile*: the passes that its own partition of the graph has (ReLU's mask comes from the result, which is read
  for it); all other element-wise work fused;
- *Triton kernels*: those of inception/speed/norm_kernels.py, which compute the mask again from what they read anyway;
- *also joined in place*: the same, and every concatenation free, its parts written where they belong (not built).
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import torch
from torch import Tensor, nn

from benchmarks.measuring.bounds import step_bound
from benchmarks.measuring.command_line import Parser, add_output_options, positive
from benchmarks.measuring.counting import NORM_PASSES, Kernel, count
from benchmarks.measuring.limits import Limits
from benchmarks.reporting.results import RESULTS, Result
from engine.faults.exit_status import DONE, run_entry_point
from inception import create_model

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    result = Result("norm_traffic", vars(options))
    forward, backward = compiled_passes()
    rates = ((1, options.bandwidth * 1e9), (2**40, options.bandwidth * 1e9))
    limits = Limits("cuda", {"bf16": options.tflops * 1e12}, rates, None, (1.0, 1.0), (1, 1, 1))
    for name in options.networks:
        with torch.device("meta"):
            network = create_model(name).train()
        blocks = count(network, (options.batch_size, 3, network.input_size, network.input_size), torch.bfloat16)
        kernels = [kernel for block in blocks for kernel in block.kernels]
        parameters = sum(block.parameters for block in blocks)
        for way, changed in ways(kernels, (forward, backward)).items():
            least = step_bound(parameters, changed, limits, "bf16")
            case = {"network": name, "normalisation": way}
            moved = sum(kernel.fused_bytes for kernel in changed)
            norms = sum(kernel.fused_bytes for kernel in changed if is_norm(kernel))
            result.add(case, "MB an image", moved / options.batch_size / 1e6, of_norms=norms / options.batch_size / 1e6)
            result.add(case, "images/s at most", options.batch_size / least.seconds, bound_by=least.by)
    ours = sum(NORM_PASSES.values())
    result.note(
        f"Passes over an activation for normalisation and ReLU, forward and backward: {forward} + {backward} as torch.compile "
        f"partitions them, {NORM_PASSES['forward']} + {NORM_PASSES['backward']} in the Triton kernels, "
        f"{ours / (forward + backward):.0%} of that. Computed from shapes for bf16, batch {options.batch_size}, "
        f"{options.tflops:g} TFLOP/s and {options.bandwidth:g} GB/s; predictions, not measurements."
    )
    result.print(("of_norms", "bound_by"))
    print(f"Written: {result.save(options.output)}")
    return DONE


def _parser() -> Parser:
    parser = Parser("Predicted bytes and bounds of a training step for each way to normalise.")
    names = ["inception_v3", "inception_v4", "inception_resnet_v2"]
    parser.add_argument("--networks", nargs="+", default=names, help="names of networks")
    parser.add_argument("--batch-size", type=positive, default=128, help="images")
    parser.add_argument("--tflops", type=float, default=790.0, help="matrix products in bf16; an H200's, measured")
    parser.add_argument("--bandwidth", type=float, default=4300.0, help="GB/s of memory; an H200's, measured")
    add_output_options(parser, RESULTS)
    return parser


def is_norm(kernel: Kernel) -> bool:
    """Whether a kernel normalises, or is the ReLU after it."""
    return "batch_norm" in kernel.name or "relu" in kernel.name or kernel.name == "threshold_backward"


def ways(kernels: Sequence[Kernel], compiled: tuple[int, int]) -> dict[str, list[Kernel]]:
    """The kernels of a step with the bytes that each way moves as their `fused_bytes`; `compiled` are the passes of
    torch.compile, forward and backward."""

    def in_passes(kernel: Kernel) -> Kernel:
        if "batch_norm" not in kernel.name:
            return kernel
        side = "backward" if "backward" in kernel.name else "forward"
        passes = compiled[side == "backward"]
        return replace(kernel, fused_bytes=kernel.fused_bytes * passes // NORM_PASSES[side])

    def with_joints(kernel: Kernel) -> Kernel:
        return replace(kernel, fused_bytes=kernel.eager_bytes) if kernel.name == "cat" else kernel

    def alone(kernel: Kernel) -> Kernel:
        return kernel if "batch_norm" in kernel.name else replace(kernel, fused_bytes=kernel.eager_bytes)

    return {
        "eager": [alone(kernel) for kernel in kernels],
        "torch.compile": [with_joints(in_passes(kernel)) for kernel in kernels],
        "Triton kernels": [with_joints(kernel) for kernel in kernels],
        "also joined in place": list(kernels),
    }


@cache
def compiled_passes() -> tuple[int, int]:
    """Reads and writes of a whole activation that normalisation and ReLU between two convolutions take forward and backward
    when torch.compile has partitioned the graph, one kernel for all sums of a graph and one for each tensor written."""
    from functorch.compile import min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    unit = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3))
    images = torch.randn(2, 3, 12, 12)
    size = unit[0](images).numel()
    passes: list[int] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        from functorch.compile import make_boxed_func

        passes.append(_passes(graph.graph, size))
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=compiler, bw_compiler=compiler, partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )  # fmt: skip
    torch.compile(unit, backend=backend, dynamic=False)(images).sum().backward()
    forward, backward = passes
    return forward, backward


def _passes(graph: torch.fx.Graph, size: int) -> int:
    """Reads and writes of tensors of `size` numbers, besides those of the convolutions."""

    def large(node: torch.fx.Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.numel() == size

    def stored(node: torch.fx.Node) -> bool:
        part = node.target is operator.getitem and node.args[0].target in _CONVOLUTIONS
        return node.op == "placeholder" or node.target in _CONVOLUTIONS or part

    def sources(node: torch.fx.Node) -> set[torch.fx.Node]:
        if stored(node):
            return {node} if large(node) else set()
        return set().union(*(sources(parent) for parent in node.all_input_nodes if large(parent)))

    def written(node: torch.fx.Node) -> bool:
        return any(user.op == "output" or user.target in _CONVOLUTIONS for user in node.users)

    sums = [n for n in graph.nodes if n.op == "call_function" and not large(n) and n.target not in _CONVOLUTIONS]
    reads = set().union(*(sources(n) for n in sums if not stored(n) and any(large(p) for p in n.all_input_nodes)))
    results = [n for n in graph.nodes if large(n) and not stored(n) and written(n)]
    return len(reads) + sum(len(sources(node)) + 1 for node in results)


if __name__ == "__main__":
    run_entry_point(main)
