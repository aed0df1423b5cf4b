"""Predicted bytes of normalisation against counts by hand, and the passes of torch.compile read from its own partition."""

import pytest
import torch

from benchmarks.measuring.counting import NORM_PASSES, Kernel, count
from benchmarks.reporting.results import read_results
from benchmarks.studies import norm_traffic
from inception import create_model


def test_the_compiler_reads_the_result_again_for_its_mask_and_our_kernels_do_not():
    """Forward: x for the statistics; x in, y out. Backward: dy, x and y for the sums; the three again, and dx."""
    assert norm_traffic.compiled_passes() == (1 + 2, 3 + 4)
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
    found = {
        way: [k.fused_bytes for k in changed] for way, changed in norm_traffic.ways(kernels, compiled=(3, 7)).items()
    }
    assert found == {
        "eager": [30, 30, 20, 16, 30, 50],
        "torch.compile": [30, 30, 0, 16, 0, 70],
        "Triton kernels": [30, 30, 0, 16, 0, 50],
        "also joined in place": [30, 30, 0, 0, 0, 50],
    }


def test_the_script_predicts_without_a_gpu(tmp_path):
    assert norm_traffic.main(["--networks", "debug", "--batch-size", "8", "--output", str(tmp_path)]) == 0
    rows = {(r.case["normalisation"], r.metric): r for r in read_results(tmp_path)[0]["rows"]}
    moved = [rows[way, "MB an image"].value for way in norm_traffic.ways([], (3, 7))]
    assert moved == sorted(moved, reverse=True)
    rates = [rows[way, "images/s at most"].value for way in norm_traffic.ways([], (3, 7))]
    assert rates == sorted(rates)
    with torch.device("meta"):
        network = create_model("debug").train()
    blocks = count(network, (8, 3, 32, 32), torch.bfloat16)
    assert moved[-1] == pytest.approx(sum(block.bytes() for block in blocks) / 8 / 1e6)
