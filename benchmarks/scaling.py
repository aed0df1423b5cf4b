"""How training scales: measured over the ranks of this machine, explained by a model, predicted for clusters.

    python benchmarks/scaling.py --network inception_v3 --ranks 1 2 4 8
    python benchmarks/scaling.py --network inception_v4 --predict-batch 128 --interconnect nvlink+infiniband --gpu-rate 2650

Weak scaling keeps the batch of a rank, strong scaling keeps that of all ranks together. Every rank gets the same number
of cores at every size. The model's prediction stands beside every measurement, and beside published scalings.
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

from benchmarks.measuring.bounds import step_bound
from benchmarks.measuring.command_line import BenchmarkError, Parser, add_output_options, positive
from benchmarks.measuring.counting import count
from benchmarks.measuring.limits import Limits
from benchmarks.measuring.ranks import measure_on_ranks
from benchmarks.measuring.scaling_model import (
    INTERCONNECTS,
    Interconnect,
    ScalingModel,
    fit_compute,
    fit_links,
    fit_overlap,
    model_from_rate,
    published_scalings,
)
from benchmarks.reporting.drawing import draw_lines
from benchmarks.reporting.results import RESULTS, Result, number
from engine.faults.exit_status import DONE, run_entry_point
from inception import create_model
from pipelines.support.cores import usable_cores

CLUSTER = (8, 16, 32, 64, 128, 256, 512, 1024)
# An H200's measured limits; what good code reaches of the bound that follows from them.
_H200 = Limits("H200", {"bf16": 790e12, "fp32": 400e12}, ((1, 4.3e12), (2**40, 4.3e12)), None, (0, 0), (0, 0, 0))
_REACHED = 0.6

Line = tuple[str, Sequence[float], Sequence[float], str]


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    result = Result("scaling", vars(options))
    console = Console(highlight=False, soft_wrap=True)
    measured = {}
    for ranks in options.ranks:
        console.print(f"measuring {options.network} on {ranks} ranks ...")
        measured[ranks] = _run_ranks(ranks, options)
    model, links = _fit(measured, options.batch_size, result)
    lines = _add_measured(measured, model, links, options, result)
    lines += _add_predictions(options, result)
    _add_published(result)
    picture = result.picture_path(options.output)
    draw_lines(picture, f"Scaling of {options.network}", "ranks", "efficiency", lines, log_x=True)
    result.print(("predicted", "compute_share", "stragglers_share", "communication_share"))
    console.print(f"Written: {result.save(options.output)}")
    return DONE


def _parser() -> Parser:
    parser = Parser("Weak and strong scaling on this machine, a model of it, and predictions for clusters.")
    on_gpu = torch.cuda.is_available()
    most = torch.cuda.device_count() if on_gpu else usable_cores()
    ranks = [2**power for power in range(most.bit_length()) if 2**power <= most]
    parser.add_argument("--network", default="inception_v3" if on_gpu else "debug", help="name of the network measured")
    parser.add_argument("--ranks", nargs="+", type=positive, default=ranks, help="numbers of ranks, from 1")
    parser.add_argument("--batch-size", type=positive, default=128 if on_gpu else 32, help="images a rank")
    parser.add_argument("--resolution", type=int, default=0, help="pixels a side; 0: the network's own")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--windows", type=positive, default=5, help="measured windows of every step")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a window, about")
    parser.add_argument("--predict-network", default="inception_v3", help="network to predict")
    parser.add_argument("--predict-batch", type=positive, default=128, help="images a GPU in the prediction")
    parser.add_argument("--interconnect", choices=tuple(INTERCONNECTS), default="nvlink+infiniband")
    parser.add_argument(
        "--gpu-rate", type=float, default=None, help="images/s of one GPU; none: 60%% of an H200's bound"
    )
    add_output_options(parser, RESULTS)
    return parser


def _run_ranks(ranks: int, options: Any) -> dict[str, Any]:
    """The worker's measurements on so many ranks: weak, half of that, and strong batches."""
    largest = max(options.ranks)
    on_gpu = torch.cuda.is_available()
    if ranks > (torch.cuda.device_count() if on_gpu else usable_cores()):
        raise BenchmarkError(
            f"{ranks} ranks do not fit on this machine: it has {usable_cores()} cores, {torch.cuda.device_count()} GPUs"
        )
    batches = sorted({options.batch_size, max(1, options.batch_size // 2), max(1, options.batch_size // ranks)})
    threads = usable_cores() if on_gpu else max(1, usable_cores() // largest)
    arguments = ["--network", options.network, "--batches", *batches, "--precision", options.precision]
    arguments += ["--resolution", options.resolution, "--threads", threads, "--windows", options.windows]
    arguments += ["--seconds", options.seconds]
    found = measure_on_ranks(ROOT / "benchmarks/measuring/scaling_worker.py", ranks, threads, arguments, "--output")
    found["steps"] = {int(batch): step for batch, step in found["steps"].items()}
    return found


def _fit(measured: dict[int, Any], batch: int, result: Result) -> tuple[ScalingModel, Interconnect]:
    """The model's constants from the measurements; the exchange's from the largest number of ranks."""
    base = measured[min(measured)]
    fixed, per_image = fit_compute([(b, step["alone_seconds"]) for b, step in base["steps"].items()])
    jitter = max(0.0, base["steps"][batch]["jitter"])
    gradients = base["steps"][batch]["gradients"]
    model = ScalingModel(fixed, per_image, gradients, jitter)
    largest = max(measured)
    if largest == 1:
        result.note("One rank only: communication could not be measured here.")
        return model, INTERCONNECTS["nvlink+infiniband"]
    links = fit_links([tuple(point) for point in measured[largest]["all_reduce"]], largest)
    for size, seconds in measured[largest]["all_reduce"]:
        bus = 2 * (largest - 1) / largest * size / seconds / 1e9
        result.add({"what": f"all-reduce, {largest} ranks", "batch": f"{size // 2**10:,} KiB"}, "GB/s on the bus", bus)
    step = measured[largest]["steps"][batch]
    exchange = links.all_reduce(largest, gradients)
    tail = exchange * min(1.0, model.bucket / gradients)
    overlap = fit_overlap(step["step_seconds"], step["alone_seconds"], exchange, tail)
    # Ranks on one machine also slow each other's computing, by shared memory and clocks: that is not communication.
    crowding = step["alone_seconds"] / base["steps"][batch]["alone_seconds"]
    result.note(
        f"Fitted: step {number(fixed * 1000)} ms + {number(per_image * 1000)} ms an image, jitter {jitter:.1%}, all-reduce "
        f"{number(links.within / 1e9)} GB/s with {number(links.latency * 1e6)} us a message, exchange of "
        f"{gradients / 1e6:.1f} MB {number(exchange * 1000)} ms, of which computing hides up to {overlap:.0%} of a step. "
        f"{largest} ranks beside each other compute at {1 / crowding:.0%} of the speed of one."
    )
    slower = max(0.0, crowding - 1) / (largest - min(measured)) if largest > min(measured) else 0.0
    return ScalingModel(fixed, per_image, gradients, jitter, overlap, crowding=slower), links


def _add_measured(
    measured: dict[int, Any], model: ScalingModel, links: Interconnect, options: Any, result: Result
) -> list[Line]:
    lines: list[Line] = []
    first = min(measured)
    for kind in ("weak", "strong"):
        shares, predictions = [], []
        for ranks, found in measured.items():
            batch = options.batch_size if kind == "weak" else max(1, options.batch_size * first // ranks)
            step = found["steps"].get(batch)
            if step is None:
                result.add_failure({"what": f"{kind}, {ranks} ranks", "batch": batch}, "images/s", "not measured")
                continue
            parts = model.parts(ranks, batch, links)
            seconds = sum(parts.values())
            base = measured[first]["steps"][options.batch_size]
            rate = batch * ranks / step["step_seconds"]
            shares.append(rate / ranks / (options.batch_size / base["step_seconds"]))
            predictions.append(model.efficiency(ranks, batch, links, (first, options.batch_size)))
            details: dict[str, Any] = {f"{name}_share": part / seconds for name, part in parts.items()}
            case = {"what": f"{kind}, {ranks} ranks", "batch": batch}
            result.add(case, "images/s", step["rates"], predicted=ranks * batch / seconds, **details)
            result.add(case, "efficiency", shares[-1], predicted=predictions[-1])
        lines += [
            (f"{kind}, measured", list(measured), shares, "o"),
            (f"{kind}, model", list(measured), predictions, "--"),
        ]
    return lines


def _add_predictions(options: Any, result: Result) -> list[Line]:
    name, batch = options.predict_network, options.predict_batch
    links = INTERCONNECTS[options.interconnect]
    model, origin = _gpu_model(name, batch, options.gpu_rate)
    shares = []
    for ranks in CLUSTER:
        parts = model.parts(ranks, batch, links)
        seconds = sum(parts.values())
        shares.append(model.efficiency(ranks, batch, links))
        details: dict[str, Any] = {f"{part}_share": value / seconds for part, value in parts.items()}
        case = {"what": f"predicted, {name}, {ranks} GPUs", "batch": batch}
        result.add(case, "images/s predicted", ranks * batch / seconds, **details)
        result.add(case, "efficiency predicted", shares[-1])
    result.note(f"Predictions: {links.name}; {origin}; jitter {model.jitter:.0%} assumed.")
    return [(f"{name} on GPUs, predicted", list(CLUSTER), shares, "-")]


def _gpu_model(name: str, batch: int, rate: float | None) -> tuple[ScalingModel, str]:
    """The model of one GPU, and where its speed comes from."""
    with torch.device("meta"):
        network = create_model(name).train()
    blocks = count(network, (batch, 3, network.input_size, network.input_size), torch.bfloat16)
    kernels = [kernel for block in blocks for kernel in block.kernels]
    parameters = sum(block.parameters for block in blocks)
    origin = f"{rate:g} images/s of one GPU, as given" if rate else ""
    if rate is None:
        least = step_bound(parameters, kernels, _H200, "bf16").seconds
        rate = _REACHED * batch / least
        origin = f"{rate:,.0f} images/s of one GPU, {_REACHED:.0%} of an H200's bound, assumed"
    launches = sum(kernel.launches for kernel in kernels)
    return model_from_rate(rate, batch, launches, 4.0 * parameters), origin


def _add_published(result: Result) -> None:
    for scaling in published_scalings():
        case = {"what": f"published: {scaling.name}", "batch": scaling.batch}
        result.add(case, "efficiency published", scaling.efficiency, predicted=scaling.predicted, source=scaling.source)
        result.note(
            f"{scaling.source}: {scaling.name}: {scaling.efficiency:.1%} published, {scaling.predicted:.1%} predicted with "
            "constants that were not fitted to it."
        )


if __name__ == "__main__":
    run_entry_point(main)
