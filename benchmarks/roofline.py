"""How far each block of a network is from what this machine can do.

    python benchmarks/roofline.py --networks inception_v3 inception_v4 --batch-size 64

Measures the machine's limits, counts every block's operations and bytes of a training step, times the blocks, and
says for each what bounds it and which share of that bound is reached. Table, picture and JSON file.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks.measuring import Measurement, Subject, alternate, repeated
from benchmarks.measuring.counting import Counts, block_inputs, counts
from benchmarks.measuring.limits import UPDATE_BYTES, Limits, bound, measure_limits
from benchmarks.reporting import Result, Study, number
from benchmarks.reporting.drawing import Bars, draw_roofline
from engine.distributed.device import compute_dtype
from inception import create_model

_COMPILED = " compiled"  # after a block's name
_GRAPHS = 256  # beyond so many graphs of the same code torch would run it uncompiled, without a word

study = Study(
    "roofline", __doc__, networks=["inception_v3"], batch_size=8, resolution=None, precision="auto", seconds=0.5, windows=3,
)  # fmt: skip
study.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
study.option("--compile", action="store_true", help="time the blocks compiled by torch.compile too")


@study
def main(options: Any, result: Result) -> list[str]:
    device = torch.device(options.device)
    precision = "bf16" if compute_dtype(options.precision, device) == torch.bfloat16 else "fp32"
    result.say("measuring the limits of this machine ...")
    limits = measure_limits(device, options.seconds)
    _add_limits(result, limits)
    pictures = []
    for name in options.networks:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        step = counts(partial(create_model, name), options.batch_size, options.resolution or 0, dtype)
        result.say(f"timing {len(step.blocks)} blocks of {name}, {options.batch_size} images ...")
        network, names = create_model(name), {block.name for block in step.blocks}
        size = options.resolution or network.input_size
        shape = (options.batch_size, 3, size, size)
        measured = _measure(network, names, shape, device, precision == "bf16", options)
        pictures.append((name, step.blocks, _add_network(result, name, step, measured, limits, precision)))
    result.note(
        "Counts: operations of matrix kernels, two a multiply-add; bytes as if element-wise work were fused into its "
        "neighbours and every other tensor went through memory once a kernel (benchmarks/measuring/counting.py has the list). "
        "A share above 100% means that data stayed in a cache. Warm-up windows are excluded; blocks are timed in turns."
    )
    if not torch.cuda.is_available():
        result.note("No GPU here: GPU limits and host-to-device bandwidth are not measured.")
    draw_roofline(result.picture_path(), pictures, limits, precision)
    return ["bound_by", "bound_ms", "share", "gmacs", "operations_per_byte"]


def _add_limits(result: Result, limits: Limits) -> None:
    for precision, operations in limits.operations.items():
        result.add({"block": "limit: matrix product", "network": precision}, "GFLOP/s", operations / 1e9)
    for size, rate in limits.bandwidths:
        result.add({"block": f"limit: memory, {size // 2**20} MiB", "network": ""}, "GB/s", rate / 1e9)
    if limits.host_to_device is not None:
        result.add({"block": "limit: host to device", "network": ""}, "GB/s", limits.host_to_device / 1e9)
    else:
        result.add_failure({"block": "limit: host to device", "network": ""}, "GB/s", "no GPU in use")
    width, height, size = limits.jpeg
    for threads, rate in zip(("one thread", "all cores"), limits.jpegs):
        case = {"block": f"limit: JPEG decode, {threads}", "network": f"{width} x {height}, {size / 1000:.0f} kB"}
        result.add(case, "images/s", rate)


def _measure(
    network: nn.Module, worthwhile: set[str], shape: Sequence[int], device: torch.device, bf16: bool, options: Any
) -> dict[str, Measurement]:
    """The blocks of these names, and the whole network as "whole", timed in turns; compiled ones as "... compiled"."""
    network = network.to(device).to(memory_format=torch.channels_last).train()
    images = torch.randn(*shape, device=device).contiguous(memory_format=torch.channels_last)
    subjects: dict[str, Subject] = {}
    # Blocks share their code, and each is one more graph of it.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)

    def add(name: str, module: nn.Module, inputs: torch.Tensor) -> None:
        ways = {"": module} | ({_COMPILED: torch.compile(module, dynamic=False)} if options.compile else {})
        for variant, function in ways.items():
            step = _training_pass(function, inputs, list(module.parameters()), bf16)
            subjects[name + variant] = repeated(step, shape[0], seconds=options.seconds / 2, least=1, device=device)

    for position, (name, module, inputs) in enumerate(block_inputs(network, images)):
        inputs = inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
        if bf16 and position > 0:  # what the block before gives under autocast
            inputs = inputs.bfloat16()
        if name in worthwhile:
            add(name, module, inputs.requires_grad_(position > 0))
    add("whole", network, images)
    return alternate(subjects, windows=options.windows)


def _training_pass(module: Any, inputs: torch.Tensor, parameters: list[nn.Parameter], bf16: bool) -> Any:
    wanted = [*([inputs] if inputs.requires_grad else []), *parameters]

    def step() -> None:
        # As a view: the first layer may work in place.
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
            output = module(inputs.view_as(inputs))
        outputs = output if isinstance(output, tuple) else (output,)
        torch.autograd.grad(outputs, wanted, [torch.ones_like(o) for o in outputs], allow_unused=True)

    return step


def _add_network(
    result: Result, name: str, step: Counts, measured: dict[str, Measurement], limits: Limits, precision: str
) -> Bars:
    """Adds a row a block and one of the whole; returns (block, bound, measured seconds a step)."""
    rows: Bars = []
    for part, kernels in [*((block.name, block.kernels) for block in step.blocks), ("whole", step.kernels)]:
        least = bound(kernels, limits, precision)
        moved, operations = (sum(getattr(kernel, what) for kernel in kernels) for what in ("bytes", "operations"))
        work = {
            "bound_by": least.by, "bound_ms": least.seconds * 1000, "gmacs": operations / 6e9 / step.images,
            "operations_per_byte": operations / moved if moved else 0.0, "megabytes": moved / 1e6,
        }  # fmt: skip
        for variant in ("", _COMPILED):
            if (timing := measured.get(part + variant)) is None:
                continue
            seconds = step.images / timing.rate.median if timing.windows else None
            share = least.seconds / seconds if seconds else None
            result.add({"network": name, "block": part + variant}, "images/s", timing, share=share, **work)
            if part != "whole" and not variant:
                rows.append((part, least, seconds))
    update = step.parameters * UPDATE_BYTES / limits.bandwidth(step.parameters * UPDATE_BYTES)
    result.note(
        f"{name}: {step.macs / 1e9:.2f} G multiply-adds an image forward; the bound is "
        f"{number(step.images / least.seconds)} images/s ({number(least.compute * 1000)} ms a step by compute, "
        f"{number(least.memory * 1000)} ms by memory), and the optimizer's pass over {step.parameters / 1e6:.1f} M weights "
        f"adds {number(update * 1000)} ms a step."
    )
    return rows


if __name__ == "__main__":
    study.start()
