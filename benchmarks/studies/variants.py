"""What single options bring to the training step: each beside the plain step, in turns, with what it should have changed.

    python benchmarks/studies/variants.py --network inception_v3 --batch-size 128 --compile default max-autotune \\
        --variants network.fused_norm=true network.pad_channels=4 network.fuse=true,network.fused_norm=true

A variant is options of engine/train.py, joined by commas. `--peers` adds other projects' networks, compiled likewise;
`--warm` compiles one of them all into the compiler's cache and ends before anything runs. Beside the speed stand the graphs
that torch.compile made, its breaks, the kernels that a step launched on a GPU, and the memory it took there; `--tables`
writes which kernels took a window's time, a file for each.
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch._dynamo.utils import counters

from benchmarks.measuring import BenchmarkError, Subject, alternate, as_arguments
from benchmarks.measuring.budget import Budget
from benchmarks.measuring.command_line import compiled
from benchmarks.measuring.workload import Workload, compile_only, compiled_at_once
from benchmarks.peers.networks import peers_of
from benchmarks.peers.subjects import network_subject, prepared_subject
from benchmarks.reporting import Result, Study
from engine.config.command_line import load_config
from engine.config.options import StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.strategies import join
from launch.environment import Environment

PLAIN = "plain"
ON_GPU = torch.cuda.is_available()
study = Study(
    "variants", __doc__, network="inception_v3" if ON_GPU else "debug", batch_size=128 if ON_GPU else 32, precision="auto",
    compile=["eager"], windows=5, seconds=1.0, budget=float("inf"), set=[],
)  # fmt: skip
variants = ["network.pad_channels=4", "network.fuse=false"]
study.option("--variants", nargs="*", default=variants, help="KEY=VALUE[,KEY=VALUE]")
study.option("--peers", nargs="*", default=[], help="other projects' networks: torchvision, timm")
study.option("--warm", help=f"{PLAIN}, a variant or a peer to compile alone, without running it")
study.option("--tables", action="store_true", help="write each one's kernels by their time (on a GPU)")


@study
def main(options: Any, result: Result) -> list[str]:
    communicator, budget = join(Environment(), StrategyConfig()), Budget(options.budget)
    with compiled_at_once():
        for mode in options.compile:
            _measure(mode, options, communicator, budget, result)
    result.notes += budget.notes()
    if communicator.device.type == "cpu":
        result.note("No GPU here: launches and GPU memory are not measured, and no Triton kernel runs.")
    return ["spread", "graphs", "breaks", "launches", "gpu_gib", "first_step_seconds"]


@study.check
def _check(options: Any) -> None:
    """Raises BenchmarkError or ConfigError for a mistake in what is asked."""
    if unknown := set(options.peers) - set(peers_of(options.network)):
        raise BenchmarkError(f"{', '.join(sorted(unknown))} has no {options.network}")
    for variant in options.variants:
        load_config(_arguments(variant, options))


def _measure(mode: str, options: Any, communicator: Communicator, budget: Budget, result: Result) -> None:
    """All variants and peers in one mode of compilation, in turns, as far as the budget goes."""
    workloads: list[Workload] = []
    subjects: dict[str, Subject] = {}
    details: dict[str, dict[str, Any]] = {}

    def ours(variant: str) -> tuple[Subject, float]:
        workload = _workload(variant, mode, options, communicator)
        try:
            steps, details[variant] = _first_steps(workload, options.seconds)
        except BaseException:  # it must not keep its memory while the others are measured
            workload.close()
            raise
        workloads.append(workload)
        return workload.timed_step(steps), options.seconds

    def theirs(peer: str) -> tuple[Subject, float]:  # which compiles in its first window
        return network_subject(peer, mode, workloads[0], options.seconds), 1.5 * options.seconds

    setting = f"{options.precision}, {mode}, batch {options.batch_size}"
    for name in (PLAIN, *options.variants, *options.peers):
        case = {"network": options.network, "variant": name, "setting": setting}
        prepare = partial(theirs if name in options.peers else ours, name)
        subject = prepared_subject(f"{name}, {mode}", case, prepare, budget, result, must=name == PLAIN)
        subjects |= {name: subject} if subject else {}
    tables = options.tables and communicator.device.type == "cuda"
    share = (options.windows + 1) / (options.windows + 1 + 3 * tables)  # a table takes as long as three windows
    measured = alternate(subjects, windows=options.windows, budget_seconds=share * budget.remaining())
    for name, measurement in measured.items():
        case = {"network": options.network, "variant": name, "setting": setting}
        result.add(case, "images/s", measurement, **details.get(name, {}))
        if name != PLAIN and measurement.windows and measured[PLAIN].windows:
            result.add(case, "times the plain step", measurement.over(measured[PLAIN]))
        if tables:
            file = f"kernels-{options.network}-{mode}-{re.sub(r'[^a-z0-9]+', '-', name.lower())}.txt"
            by_time = {"sort_by": "self_cuda_time_total", "row_limit": 120, "max_name_column_width": 100}
            (options.output / file).write_text(_profiled(subjects[name]).key_averages().table(**by_time))
    for workload in workloads:
        workload.close()


@study.instead("warm")
def _warm(options: Any) -> None:
    """Compiles the step of `options.warm` in the first mode; the graphs stay in the compiler's cache."""
    communicator = join(Environment(), StrategyConfig())
    peer, mode = options.warm in options.peers, options.compile[0]
    workload = _workload(PLAIN if peer else options.warm, mode, options, communicator)
    compile_only(network_subject(options.warm, mode, workload, 0.0) if peer else workload.step)
    workload.close()
    print(f"{options.network}, {options.warm}: compiled")


def _workload(variant: str, mode: str, options: Any, communicator: Communicator) -> Workload:
    settings = {
        "network.name": options.network, "data.batch_size": options.batch_size, "precision": options.precision,
        **compiled(mode),
    }  # fmt: skip
    return Workload.synthetic(settings, communicator, _arguments(variant, options))


def _arguments(variant: str, options: Any) -> list[str]:
    """The training's options that make a variant."""
    pairs = [pair.split("=", 1) for pair in variant.split(",")] if variant != PLAIN else []
    if any(len(pair) < 2 for pair in pairs):
        raise BenchmarkError(f"a variant is KEY=VALUE[,KEY=VALUE], not {variant!r}")
    return [*options.set, *as_arguments(pairs)]


def _first_steps(workload: Workload, seconds: float) -> tuple[int, dict[str, Any]]:
    """The steps of a window; and what compiling the step gave and what a step takes."""
    counters.clear()
    steps = workload.steps_in(seconds)
    details: dict[str, Any] = {"first_step_seconds": workload.first_step_seconds}
    if workload.config.compile.enabled:
        details |= {"graphs": counters["stats"]["unique_graphs"], "breaks": sum(counters["graph_break"].values())}
    if workload.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        on_gpu = torch.autograd.DeviceType.CUDA
        details["launches"] = sum(event.device_type == on_gpu for event in _profiled(workload.step).events())
        details["gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return steps, details


def _profiled(work: Callable[[], Any]) -> torch.profiler.profile:
    """The kernels and copies that the GPU runs for `work`."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    return profile


if __name__ == "__main__":
    study.start()
