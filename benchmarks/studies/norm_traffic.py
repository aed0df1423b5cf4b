"""Predicts what normalisation and ReLU cost a training step: bytes, and the bound that follows, for each way to run them.

    python benchmarks/studies/norm_traffic.py --networks inception_v3 inception_v4 inception_resnet_v2 --batch-size 128

Nothing is timed: operations and bytes are counted from shapes, on any machine, and set against the limits given. Ways:

- *eager*: every operator reads its inputs and writes its outputs, a normalisation as often as its sums need;
- *torch.compile*: the passes that its own partition of the graph has (ReLU's mask comes from the result, which is read
  for it; tests/benchmarks/studies/test_norm_traffic.py reads them from torch); all other element-wise work fused;
- *Triton kernels*: those of inception/speed/norm_kernels.py, which compute the mask again from what they read anyway;
- *also joined in place*: the same, and every concatenation free, its parts written where they belong (not built).
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks.measuring import Parser
from benchmarks.measuring.bounds import step_bound
from benchmarks.measuring.counting import NORM_PASSES, Kernel, counts
from benchmarks.measuring.limits import Limits
from benchmarks.reporting.results import Result
from engine.faults.exit_status import DONE, run_entry_point
from inception import create_model

# Reads and writes of a whole activation for normalisation and ReLU between two convolutions under torch.compile.
COMPILED_PASSES = {"forward": 3, "backward": 7}


def main(arguments: Sequence[str]) -> int:
    names = ["inception_v3", "inception_v4", "inception_resnet_v2"]
    parser = Parser("Predicted bytes and bounds, by the way to normalise.", networks=names, batch_size=128)
    parser.add_argument("--tflops", type=float, default=790.0, help="matrix products in bf16; an H200's, measured")
    parser.add_argument("--bandwidth", type=float, default=4300.0, help="GB/s of memory; an H200's, measured")
    options = parser.parse_args(arguments)
    result = Result("norm_traffic", options)
    limits = Limits.given({"bf16": options.tflops * 1e12}, options.bandwidth * 1e9)
    for name in options.networks:
        step = counts(partial(create_model, name), options.batch_size, dtype=torch.bfloat16)
        for way, changed in ways(step.kernels).items():
            least = step_bound(step.parameters, changed, limits, "bf16")
            case = {"network": name, "normalisation": way}
            moved = sum(kernel.fused_bytes for kernel in changed)
            norms = sum(kernel.fused_bytes for kernel in changed if is_norm(kernel))
            result.add(case, "MB an image", moved / options.batch_size / 1e6, of_norms=norms / options.batch_size / 1e6)
            result.add(case, "images/s at most", options.batch_size / least.seconds, bound_by=least.by)
    ours, compilers = sum(NORM_PASSES.values()), sum(COMPILED_PASSES.values())
    result.note(
        "Passes over an activation for normalisation and ReLU, forward and backward: "
        f"{COMPILED_PASSES['forward']} + {COMPILED_PASSES['backward']} as torch.compile partitions them, "
        f"{NORM_PASSES['forward']} + {NORM_PASSES['backward']} in the Triton kernels, {ours / compilers:.0%} of that. "
        f"Computed from shapes for bf16, batch {options.batch_size}, "
        f"{options.tflops:g} TFLOP/s and {options.bandwidth:g} GB/s; predictions, not measurements."
    )
    result.finish("of_norms", "bound_by")
    return DONE


def is_norm(kernel: Kernel) -> bool:
    """Whether a kernel normalises, or is the ReLU after it."""
    return "batch_norm" in kernel.name or "relu" in kernel.name or kernel.name == "threshold_backward"


def ways(kernels: Sequence[Kernel]) -> dict[str, list[Kernel]]:
    """The kernels of a step with the bytes that each way moves as their `fused_bytes`."""

    def in_passes(kernel: Kernel) -> Kernel:
        if "batch_norm" not in kernel.name:
            return kernel
        side = "backward" if "backward" in kernel.name else "forward"
        return replace(kernel, fused_bytes=kernel.fused_bytes * COMPILED_PASSES[side] // NORM_PASSES[side])

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


if __name__ == "__main__":
    run_entry_point(main)
