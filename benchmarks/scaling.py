"""How training scales: measured over the ranks of this machine, explained by a model, predicted for clusters.

    python benchmarks/scaling.py --network inception_v3 --ranks 1 2 4 8
    python benchmarks/scaling.py --network inception_v4 --predict-batch 128 --interconnect nvlink+infiniband --gpu-rate 2650
    python benchmarks/scaling.py --simulate

Weak scaling keeps the batch of a rank, strong scaling keeps that of all ranks together. Every rank gets the same number
of cores at every size. The model's prediction stands beside every measurement, and beside published scalings. `--simulate`
measures nothing: it says how much of a job's time trains what stays trained, with failures and restarts, and what that assumes.
"""

import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.distributed as dist

from benchmarks.measuring import BenchmarkError, alternate, positive, scaling_model, summarise
from benchmarks.measuring.command_line import told
from benchmarks.measuring.counting import counts
from benchmarks.measuring.goodput_model import Costs, simulate
from benchmarks.measuring.limits import Limits, step_bound
from benchmarks.measuring.processes import measured_on_ranks
from benchmarks.measuring.scaling_model import INTERCONNECTS, Interconnect, ScalingModel
from benchmarks.measuring.workload import Workload
from benchmarks.reporting import Result, Study, number
from benchmarks.reporting.drawing import Line, draw_lines
from engine.config.options import StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.strategies import join
from inception import create_model
from launch.environment import detect
from pipelines.support.cores import usable_cores

CLUSTER = (8, 16, 32, 64, 128, 256, 512, 1024)
SIMULATED = (8, 64, 512, 1024)
# An H200's measured limits; what good code reaches of the bound that follows from them.
_H200 = Limits.given({"bf16": 790e12, "fp32": 400e12}, 4.3e12)
_REACHED = 0.6
SIZES = (4 * 2**10, 2**20, 16 * 2**20)  # bytes of the all-reduces that are timed

ON_GPU = torch.cuda.is_available()
MOST_RANKS = torch.cuda.device_count() if ON_GPU else usable_cores()
study = Study(
    "scaling", __doc__, network="inception_v3" if ON_GPU else "debug", batch_size=128 if ON_GPU else 32, resolution=0,
    precision="auto", windows=5, seconds=1.0,
)  # fmt: skip
ranks = [2**power for power in range(MOST_RANKS.bit_length())]
study.option("--ranks", nargs="+", type=positive, default=ranks, help="numbers of ranks, from 1")
study.option("--predict-network", default="inception_v3", help="network to predict")
study.option("--predict-batch", type=positive, default=128, help="images a GPU in the prediction")
study.option("--interconnect", choices=tuple(INTERCONNECTS), default="nvlink+infiniband")
study.option("--gpu-rate", type=float, help="images/s of one GPU; not given: 60%% of an H200's bound")
study.option("--simulate", action="store_true", help="goodput of long jobs on many GPUs, simulated")
study.option("--days", type=positive, default=1000, help="of each job that is simulated")
study.option("--worker", type=Path, help="for ranks that this or slurm/throughput.sbatch starts: their JSON file")
study.option("--batches", type=positive, nargs="+", help="for them: images a rank, one after the other")
study.option("--threads", type=positive, help="for them: of the CPU, a rank")


@study.check
def _complete(options: Any) -> None:
    """Raises BenchmarkError for a rank that was not told what to do."""
    if options.worker and not (options.batches and options.threads):
        raise BenchmarkError("--worker is for ranks that a script starts, with --batches and --threads")


@study
def main(options: Any, result: Result) -> list[str]:
    measured = {}
    for ranks in options.ranks:
        result.say(f"measuring {options.network} on {ranks} ranks ...")
        measured[ranks] = _run_ranks(ranks, options)
    model, links = _fit(measured, options.batch_size, result)
    lines = _add_measured(measured, model, links, options, result)
    lines += _add_predictions(options, result)
    for scaling in scaling_model.published_scalings():
        case = {"what": f"published: {scaling.name}", "batch": scaling.batch}
        result.add(case, "efficiency published", scaling.efficiency, predicted=scaling.predicted, source=scaling.source)
        result.note(
            f"{scaling.source}: {scaling.name}: {scaling.efficiency:.1%} published, {scaling.predicted:.1%} predicted with "
            "constants that were not fitted to it."
        )
    draw_lines(result.picture_path(), f"Scaling of {options.network}", "ranks", "efficiency", lines, log_x=True)
    return ["predicted", "compute_share", "stragglers_share", "communication_share"]


@study.instead("simulate")
def _simulate(options: Any) -> None:
    """Goodput at several sizes, and where the rest of the time goes."""
    result, costs = Result("goodput", options), Costs()
    for gpus in SIMULATED:
        account = simulate(gpus, options.days, costs)
        shares = {name: value for name, value in asdict(account).items() if name != "goodput"}
        result.add({"GPUs": gpus}, "goodput, simulated", account.goodput, start_seconds=costs.start(gpus), **shares)
    assumed = ", ".join(f"{name} {number(value)}" for name, value in asdict(costs).items())
    result.note(f"Assumed, in seconds where no unit stands: {assumed}.")
    result.finish("start_seconds", "starting", "voting", "saving", "lost", "noticing", "failures_a_day")


def _run_ranks(ranks: int, options: Any) -> dict[str, Any]:
    """The worker's measurements on so many ranks: weak, half of that, and strong batches."""
    batch, cores = options.batch_size, usable_cores()
    if ranks > MOST_RANKS:
        raise BenchmarkError(f"{ranks} ranks do not fit: here are {cores} cores, {torch.cuda.device_count()} GPUs")
    threads = cores if ON_GPU else max(1, cores // max(options.ranks))
    batches = sorted({batch, max(1, batch // 2), max(1, batch // ranks)})
    arguments = told(options, "network", "precision", "resolution", "windows", "seconds")
    arguments += ["--threads", threads, "--batches", *batches]
    found = measured_on_ranks(Path(__file__), ranks, threads, arguments, "--worker")
    found["steps"] = {int(batch): step for batch, step in found["steps"].items()}
    return found


def _fit(measured: dict[int, Any], batch: int, result: Result) -> tuple[ScalingModel, Interconnect]:
    """The model's constants from the measurements; the exchange's from the largest number of ranks."""
    fewest, most = min(measured), max(measured)
    steps = measured[fewest]["steps"]
    base, step = steps[batch], measured[most]["steps"][batch]
    fixed, per_image = scaling_model.fit_compute([(b, step["alone_seconds"]) for b, step in steps.items()])
    jitter, gradients = max(0.0, base["jitter"]), base["gradients"]
    if most == 1:
        result.note("One rank only: communication could not be measured here.")
        return ScalingModel(fixed, per_image, gradients, jitter), INTERCONNECTS["nvlink+infiniband"]
    links = scaling_model.fit_links([tuple(point) for point in measured[most]["all_reduce"]], most)
    for size, seconds in measured[most]["all_reduce"]:
        bus = 2 * (most - 1) / most * size / seconds / 1e9
        result.add({"what": f"all-reduce, {most} ranks", "batch": f"{size // 2**10:,} KiB"}, "GB/s on the bus", bus)
    exchange = links.all_reduce(most, gradients)
    tail = exchange * min(1.0, scaling_model.BUCKET / gradients)
    overlap = scaling_model.fit_overlap(step["step_seconds"], step["alone_seconds"], exchange, tail)
    # Ranks on one machine also slow each other's computing, by shared memory and clocks: that is not communication.
    crowding = step["alone_seconds"] / base["alone_seconds"]
    result.note(
        f"Fitted: step {number(fixed * 1000)} ms + {number(per_image * 1000)} ms an image, jitter {jitter:.1%}, all-reduce "
        f"{number(links.within / 1e9)} GB/s with {number(links.latency * 1e6)} us a message, exchange of "
        f"{gradients / 1e6:.1f} MB {number(exchange * 1000)} ms, of which computing hides up to {overlap:.0%} of a step. "
        f"{most} ranks beside each other compute at {1 / crowding:.0%} of the speed of one."
    )
    slower = max(0.0, crowding - 1) / max(1, most - fewest)
    return ScalingModel(fixed, per_image, gradients, jitter, overlap, crowding=slower), links


def _add_measured(
    measured: dict[int, Any], model: ScalingModel, links: Interconnect, options: Any, result: Result
) -> list[Line]:
    lines: list[Line] = []
    first, most = min(measured), options.batch_size
    base = most / measured[first]["steps"][most]["step_seconds"]
    for kind in ("weak", "strong"):
        points: list[tuple[int, float, float]] = []
        for ranks, found in measured.items():
            batch = most if kind == "weak" else max(1, most * first // ranks)
            case = {"what": f"{kind}, {ranks} ranks", "batch": batch}
            if (step := found["steps"].get(batch)) is None:
                result.add_failure(case, "images/s", "not measured")
                continue
            share = batch / step["step_seconds"] / base
            points.append((ranks, share, model.efficiency(ranks, batch, links, (first, most))))
            rate, details = _predicted(model, ranks, batch, links)
            result.add(case, "images/s", step["rates"], predicted=rate, **details)
            result.add(case, "efficiency", share, predicted=points[-1][2])
        ranks, shares, predictions = zip(*points)
        lines += [(f"{kind}, measured", ranks, shares, "o"), (f"{kind}, model", ranks, predictions, "--")]
    return lines


def _predicted(model: ScalingModel, ranks: int, batch: int, links: Interconnect) -> tuple[float, dict[str, float]]:
    """Images a second of all ranks, and the shares of a step by cause."""
    parts = model.parts(ranks, batch, links)
    seconds = sum(parts.values())
    return ranks * batch / seconds, {f"{name}_share": part / seconds for name, part in parts.items()}


def _add_predictions(options: Any, result: Result) -> list[Line]:
    name, batch = options.predict_network, options.predict_batch
    links = INTERCONNECTS[options.interconnect]
    step, rate = counts(partial(create_model, name), batch, dtype=torch.bfloat16), options.gpu_rate
    origin = f"{rate:g} images/s of one GPU, as given" if rate else ""
    if rate is None:
        rate = _REACHED * batch / step_bound(step.parameters, step.kernels, _H200, "bf16").seconds
        origin = f"{rate:,.0f} images/s of one GPU, {_REACHED:.0%} of an H200's bound, assumed"
    model = scaling_model.model_from_rate(rate, batch, step.launches, 4.0 * step.parameters)
    shares = [model.efficiency(ranks, batch, links) for ranks in CLUSTER]
    for ranks, share in zip(CLUSTER, shares):
        case = {"what": f"predicted, {name}, {ranks} GPUs", "batch": batch}
        images, details = _predicted(model, ranks, batch, links)
        result.add(case, "images/s predicted", images, **details)
        result.add(case, "efficiency predicted", share)
    result.note(f"Predictions: {links.name}; {origin}; jitter {model.jitter:.0%} assumed.")
    return [(f"{name} on GPUs, predicted", CLUSTER, shares, "-")]


# ---- on every rank --------------------------------------------------------------------------------------------------


@study.instead("worker")
def _work(options: Any) -> None:
    """Times the step with and without the gradients' exchange at the batches given, and all-reduces of several sizes."""
    communicator = join(detect(), StrategyConfig(name="ddp"))
    torch.set_num_threads(options.threads)  # a rank is as large alone as beside others
    steps = {batch: _time_steps(batch, options, communicator) for batch in options.batches}
    exchanges = _time_all_reduce(communicator, options.seconds)
    if communicator.is_main:
        found = {"ranks": communicator.world_size, "steps": steps, "all_reduce": exchanges}
        options.worker.write_text(json.dumps(found))
    communicator.close()


def _time_steps(batch: int, options: Any, communicator: Communicator) -> dict[str, Any]:
    settings = {
        "network.name": options.network, "data.batch_size": batch, "precision": options.precision,
        "data.resolution": options.resolution,
    }  # fmt: skip
    workload = Workload.synthetic(settings, communicator)
    steps = workload.steps_in(options.seconds)
    subjects = {"step": workload.timed_step(steps), "alone": workload.timed_step(steps, exchange=False)}
    measured = alternate(subjects, windows=options.windows, tolerant=False)
    alone = summarise(measured["alone"].step_seconds)
    workload.close()
    return {
        "rates": measured["step"].rates,
        "step_seconds": workload.images / measured["step"].rate.median,
        # Compute is what ranks do beside each other: the mean over them, and how much their steps vary.
        "alone_seconds": fmean(communicator.gather(alone.median)),
        "jitter": fmean(communicator.gather((alone.p95 - alone.median) / (1.645 * alone.median))),
        "gradients": sum(4 * p.numel() for p in workload.network.parameters() if p.requires_grad),
    }


def _time_all_reduce(communicator: Communicator, seconds: float) -> list[tuple[int, float]]:
    """(bytes, median seconds) of all-reduces, on the slowest rank."""
    found = []
    for size in SIZES if communicator.world_size > 1 else ():
        values = torch.ones(size // 4, device=communicator.device)
        durations: list[float] = []
        for _ in range(max(5, min(50, int(seconds * 2**24 / size) * 10))):
            communicator.barrier()
            started = time.perf_counter()
            dist.all_reduce(values)
            if communicator.device.type == "cuda":
                torch.cuda.synchronize()
            durations.append(time.perf_counter() - started)
        found.append((size, max(communicator.gather(summarise(durations[2:]).median))))
    return found


if __name__ == "__main__":
    study.start()
