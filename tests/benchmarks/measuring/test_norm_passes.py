"""The passes of normalisation over memory: ours, and those of torch.compile, read from its own partition."""

import operator

import torch
from torch import Tensor, nn

from benchmarks.measuring.counting import NORM_PASSES

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


def compiled_passes():
    """Reads and writes of a whole activation that normalisation and ReLU between two convolutions take forward and backward
    when torch.compile has partitioned the graph, one kernel for all sums of a graph and one for each tensor written."""
    from functorch.compile import min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    unit = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3))
    images = torch.randn(2, 3, 12, 12)
    size = unit[0](images).numel()
    passes = []

    def compiler(graph, inputs):
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


def _passes(graph, size):
    """Reads and writes of tensors of `size` numbers, besides those of the convolutions."""

    def large(node):
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.numel() == size

    def stored(node):
        part = node.target is operator.getitem and node.args[0].target in _CONVOLUTIONS
        return node.op == "placeholder" or node.target in _CONVOLUTIONS or part

    def sources(node):
        if stored(node):
            return {node} if large(node) else set()
        return set().union(*(sources(parent) for parent in node.all_input_nodes if large(parent)))

    def written(node):
        return any(user.op == "output" or user.target in _CONVOLUTIONS for user in node.users)

    sums = [n for n in graph.nodes if n.op == "call_function" and not large(n) and n.target not in _CONVOLUTIONS]
    reads = set().union(*(sources(n) for n in sums if not stored(n) and any(large(p) for p in n.all_input_nodes)))
    results = [n for n in graph.nodes if large(n) and not stored(n) and written(n)]
    return len(reads) + sum(len(sources(node)) + 1 for node in results)


def test_the_compiler_reads_the_result_again_for_its_mask_and_our_kernels_do_not():
    """Forward: x for the statistics; x in, y out. Backward: dy, x and y for the sums; the three again, and dx."""
    assert compiled_passes() == (1 + 2, 3 + 4)
    assert NORM_PASSES == {"forward": 1 + 2, "backward": 2 + 3}
