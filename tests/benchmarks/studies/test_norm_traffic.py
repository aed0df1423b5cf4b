"""Predicted bytes of normalisation against counts by hand, and the passes of torch.compile read from its own partition."""

import operator

import pytest
import torch
from torch import Tensor, nn

from benchmarks.measuring.counting import NORM_PASSES, Kernel, count
from benchmarks.reporting.results import read_results
from benchmarks.studies import norm_traffic
from inception import create_model

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
    assert compiled_passes() == (1 + 2, 3 + 4) == tuple(norm_traffic.COMPILED_PASSES.values())
    assert NORM_PASSES == {"forward": 1 + 2, "backward": 2 + 3}


def test_every_way_has_its_bytes():
    kernels = [
        Kernel("convolution", 100, 30, 30),
        Kernel("native_batch_norm", 0, 20, 30),
        Kernel("relu_", 0, 20, 0),
        Kernel("cat", 0, 16, 0),
        Kernel("threshold_backward", 0, 30, 0),
        Kernel("native_batch_norm_backward", 0, 30, 50),
    ]
    found = {way: [k.fused_bytes for k in changed] for way, changed in norm_traffic.ways(kernels).items()}
    assert found == {
        "eager": [30, 30, 20, 16, 30, 50],
        "torch.compile": [30, 30, 0, 16, 0, 70],
        "Triton kernels": [30, 30, 0, 16, 0, 50],
        "also joined in place": [30, 30, 0, 0, 0, 50],
    }


def test_the_script_predicts_without_a_gpu(tmp_path):
    assert norm_traffic.main(["--networks", "debug", "--batch-size", "8", "--output", str(tmp_path)]) == 0
    rows = {(r.case["normalisation"], r.metric): r for r in read_results(tmp_path)[0]["rows"]}
    moved = [rows[way, "MB an image"].value for way in norm_traffic.ways([])]
    assert moved == sorted(moved, reverse=True)
    rates = [rows[way, "images/s at most"].value for way in norm_traffic.ways([])]
    assert rates == sorted(rates)
    with torch.device("meta"):
        network = create_model("debug").train()
    blocks = count(network, (8, 3, 32, 32), torch.bfloat16)
    assert moved[-1] == pytest.approx(sum(block.bytes() for block in blocks) / 8 / 1e6)
