"""How far each block of a network is from what this machine can do.

    python benchmarks/roofline.py --networks inception_v3 inception_v4 --batch-size 64

Measures the machine's limits, counts every block's operations and bytes of a training step, times the blocks, and
says for each what bounds it and which share of that bound is reached. Table, picture and JSON file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import torch
from rich.console import Console
from torch import nn

from benchmarks.measuring.bounds import UPDATE_BYTES, Bound, bound
from benchmarks.measuring.command_line import Parser, add_output_options, positive
from benchmarks.measuring.counting import Block, Kernel, block_inputs, count
from benchmarks.measuring.limits import Limits, measure_limits
from benchmarks.measuring.measure import Measurement, Subject, alternate, repeated
from benchmarks.reporting.drawing import draw_roofline
from benchmarks.reporting.results import RESULTS, Result, number
from engine.distributed.device import use_bf16
from engine.faults.exit_status import DONE, run_entry_point
from inception import create_model

# Beyond so many graphs of the same code torch would run it uncompiled, without a word.
_GRAPHS = 256


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    bf16 = use_bf16(options.precision, device)
    result = Result("roofline", vars(options))
    console = Console(highlight=False)
    console.print("measuring the limits of this machine ...")
    limits = measure_limits(device, options.seconds)
    _add_limits(result, limits)
    pictures = []
    for name in options.networks:
        with torch.device("meta"):
            network = create_model(name).train()
        size = options.resolution or network.input_size
        shape = (options.batch_size, 3, size, size)
        blocks = count(network, shape, torch.bfloat16 if bf16 else torch.float32)
        console.print(f"timing {len(blocks)} blocks of {name}, {options.batch_size} images of {size} x {size} ...")
        measured = _measure(create_model(name), {block.name for block in blocks}, shape, device, bf16, options)
        rows = _add_network(result, name, blocks, measured, limits, "bf16" if bf16 else "fp32", options.batch_size)
        pictures.append((name, blocks, rows))
    result.note(
        "Counts: operations of matrix kernels, two a multiply-add; bytes as if element-wise work were fused into its "
        "neighbours and every other tensor went through memory once a kernel (benchmarks/measuring/counting.py has the list). "
        "A share above 100% means that data stayed in a cache. Warm-up windows are excluded; blocks are timed in turns."
    )
    if device.type == "cpu" and not torch.cuda.is_available():
        result.note("No GPU here: GPU limits and host-to-device bandwidth are not measured.")
    draw_roofline(result.picture_path(options.output), pictures, limits, "bf16" if bf16 else "fp32")
    result.print(("bound_by", "bound_ms", "share", "gmacs", "operations_per_byte"))
    console.print(f"Written: {result.save(options.output)}", soft_wrap=True)
    return DONE


def _parser() -> Parser:
    parser = Parser("Bounds of every block of a network on this machine, and the share of them that is reached.")
    parser.add_argument("--networks", nargs="+", default=["inception_v3"], help="names of networks")
    parser.add_argument("--batch-size", type=positive, default=8, help="images")
    parser.add_argument("--resolution", type=positive, default=None, help="pixels a side; none: the network's own")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the training step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--seconds", type=float, default=0.5, help="a limit and a window are measured for")
    parser.add_argument("--windows", type=positive, default=3, help="measured windows of every block")
    parser.add_argument("--compile", action="store_true", help="time the blocks compiled by torch.compile too")
    add_output_options(parser, RESULTS)
    return parser


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
    network: nn.Module,
    worthwhile: set[str],
    shape: tuple[int, int, int, int],
    device: torch.device,
    bf16: bool,
    options: Any,
) -> dict[str, Measurement]:
    """The blocks of these names, and the whole network as "whole", timed in turns; compiled ones as "... compiled"."""
    network = network.to(device).to(memory_format=torch.channels_last).train()
    images = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    subjects: dict[str, Subject] = {}

    def subject(module: Any, inputs: torch.Tensor, parameters: list[nn.Parameter]) -> Subject:
        step = _training_pass(module, inputs, parameters, bf16)
        return repeated(step, shape[0], seconds=options.seconds / 2, least=1, device=device)

    for position, (name, module, inputs) in enumerate(block_inputs(network, images)):
        inputs = inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
        if bf16 and position > 0:  # what the block before gives under autocast
            inputs = inputs.bfloat16()
        inputs = inputs.requires_grad_(position > 0)
        if name not in worthwhile:
            continue
        subjects[name] = subject(module, inputs, list(module.parameters()))
        if options.compile:
            subjects[f"{name} compiled"] = subject(_compiled(module), inputs, list(module.parameters()))
    subjects["whole"] = subject(network, images, list(network.parameters()))
    if options.compile:
        subjects["whole compiled"] = subject(_compiled(network), images, list(network.parameters()))
    return alternate(subjects, windows=options.windows)


def _compiled(module: nn.Module) -> Any:
    """`module` compiled for the sizes at hand; blocks share their code, and each is one more graph of it."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
    return torch.compile(module, dynamic=False)


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
    result: Result, name: str, blocks: list[Block], measured: dict[str, Measurement], limits: Limits, precision: str,
    batch: int,
) -> list[tuple[str, Bound, float | None]]:  # fmt: skip
    """Adds a row a block and one of the whole; returns (block, bound, measured seconds a step)."""
    rows: list[tuple[str, Bound, float | None]] = []
    for block in blocks:
        for variant in ("", " compiled"):
            timing = measured.get(block.name + variant)
            if timing is None:
                continue
            least = bound(block.kernels, limits, precision)
            seconds = _add_block(result, name, block.name + variant, block.kernels, least, timing, batch)
            if not variant:
                rows.append((block.name, least, seconds))
    macs = sum(block.macs for block in blocks if not block.auxiliary) / batch
    parameters = sum(block.parameters for block in blocks)
    update = parameters * UPDATE_BYTES / limits.bandwidth(parameters * UPDATE_BYTES)
    kernels = [kernel for block in blocks for kernel in block.kernels]
    least = bound(kernels, limits, precision)
    for variant in ("", " compiled"):
        if f"whole{variant}" in measured:
            _add_block(result, name, f"whole{variant}", kernels, least, measured[f"whole{variant}"], batch)
    result.note(
        f"{name}: {macs / 1e9:.2f} G multiply-adds an image forward; the bound is {number(batch / least.seconds)} images/s "
        f"({number(least.compute * 1000)} ms a step by compute, {number(least.memory * 1000)} ms by memory), and the "
        f"optimizer's pass over {parameters / 1e6:.1f} M weights adds {number(update * 1000)} ms a step."
    )
    return rows


def _add_block(
    result: Result, network: str, name: str, kernels: list[Kernel], least: Bound, timing: Measurement, batch: int
) -> float | None:
    moved = sum(kernel.fused_bytes for kernel in kernels)
    operations = sum(kernel.operations for kernel in kernels)
    seconds = batch / timing.rate.median if timing.windows else None
    result.add(
        {"network": network, "block": name},
        "images/s",
        timing,
        bound_by=least.by,
        bound_ms=least.seconds * 1000,
        share=least.seconds / seconds if seconds else None,
        gmacs=operations / 6e9 / batch,
        operations_per_byte=operations / moved if moved else 0.0,
        megabytes=moved / 1e6,
    )
    return seconds


if __name__ == "__main__":
    run_entry_point(main)
