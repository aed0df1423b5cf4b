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
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch._dynamo.utils import counters

from benchmarks.measuring import BenchmarkError, Subject, alternate, as_arguments, one_line
from benchmarks.measuring.budget import Budget
from benchmarks.measuring.workload import Workload, compile_only, compiled_at_once
from benchmarks.peers.networks import peers_of
from benchmarks.peers.subjects import network_subject
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
study.option("--variants", nargs="+", default=variants, help="KEY=VALUE[,KEY=VALUE]")
study.option("--peers", nargs="*", default=[], help="other projects' networks: torchvision, timm")
study.option("--warm", help=f"{PLAIN}, a variant or a peer to compile alone, without running it")
study.option("--tables", action="store_true", help="write each one's kernels by their time (on a GPU)")


@study
def main(options: Any, result: Result) -> list[str]:
    communicator, budget = join(Environment(), StrategyConfig()), Budget(options.budget)
    with compiled_at_once():
        for mode in options.compile:
            _measure(mode, options, communicator, budget, result)
    if budget.left_out:
        result.note(f"Left out to keep the budget of {options.budget:g} s: {', '.join(budget.left_out)}.")
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
    """All variants in one mode of compilation, in turns, as far as the budget goes."""
    workloads: list[Workload] = []
    subjects: dict[str, Subject] = {}
    details: dict[str, dict[str, Any]] = {}
    for variant in (PLAIN, *options.variants):
        result.say(f"preparing {options.network}, {mode}: {variant} ...")
        try:
            prepared = budget.prepared(f"{variant}, {mode}", partial(_prepare, variant, mode, options, communicator))
        except Exception as error:
            if variant == PLAIN:
                raise
            result.add_failure(_case(variant, mode, options), "images/s", one_line(error))
            continue
        # A round of warm-up and one that counts.
        if prepared and budget.admits(f"{variant}, {mode}", 2 * options.seconds, must=variant == PLAIN):
            workload, details[variant], steps = prepared
            workloads.append(workload)
            subjects[variant] = workload.timed_step(steps)
    for peer in options.peers:
        result.say(f"preparing {options.network}, {mode}: {peer} ...")
        subject = budget.prepared(
            f"{peer}, {mode}", partial(network_subject, peer, mode, workloads[0], options.seconds)
        )
        # A peer compiles in its first window.
        if subject and budget.admits(f"{peer}, {mode}", 3 * options.seconds):
            subjects[peer] = subject
    tables = options.tables and communicator.device.type == "cuda"
    share = (options.windows + 1) / (options.windows + 1 + 3 * tables)  # a table takes as long as three windows
    measured = alternate(subjects, windows=options.windows, budget_seconds=share * budget.remaining())
    for variant, measurement in measured.items():
        case = _case(variant, mode, options)
        result.add(case, "images/s", measurement, **details.get(variant, {}))
        if variant != PLAIN and measurement.windows and measured[PLAIN].windows:
            result.add(case, "times the plain step", measurement.over(measured[PLAIN]))
    if tables:
        for name, subject in subjects.items():
            _write_table(subject, options.output / f"kernels-{options.network}-{mode}-{_slug(name)}.txt")
    for workload in workloads:
        workload.close()


def _prepare(variant: str, mode: str, options: Any, communicator: Communicator) -> tuple[Workload, dict[str, Any], int]:
    workload = _workload(variant, mode, options, communicator)
    return workload, *_first_steps(workload, options.seconds)


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
        "compile.enabled": str(mode != "eager").lower(), **({"compile.mode": mode} if mode != "eager" else {}),
    }  # fmt: skip
    return Workload.synthetic(settings, communicator, _arguments(variant, options))


def _arguments(variant: str, options: Any) -> list[str]:
    """The training's options that make a variant."""
    pairs = [pair.split("=", 1) for pair in variant.split(",")] if variant != PLAIN else []
    if any(len(pair) < 2 for pair in pairs):
        raise BenchmarkError(f"a variant is KEY=VALUE[,KEY=VALUE], not {variant!r}")
    return [*options.set, *as_arguments(pairs)]


def _case(variant: str, mode: str, options: Any) -> dict[str, str]:
    setting = f"{options.precision}, {mode}, batch {options.batch_size}"
    return {"network": options.network, "variant": variant, "setting": setting}


def _first_steps(workload: Workload, seconds: float) -> tuple[dict[str, Any], int]:
    """What compiling the step gave and what a step takes; and the steps of a window."""
    counters.clear()
    steps = workload.steps_in(seconds)
    details: dict[str, Any] = {"first_step_seconds": workload.first_step_seconds}
    if workload.config.compile.enabled:
        details |= {"graphs": counters["stats"]["unique_graphs"], "breaks": sum(counters["graph_break"].values())}
    if workload.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        details["launches"] = _launches(workload)
        details["gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return details, steps


def _write_table(window: Subject, path: Path) -> None:
    """Which kernels took the GPU's time in one window, as torch.profiler sees them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        window()
        torch.cuda.synchronize()
    path.write_text(
        profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=120, max_name_column_width=100)
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _launches(workload: Workload) -> int:
    """Kernels and copies that the GPU ran in one step, as torch.profiler sees them."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        workload.step()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


if __name__ == "__main__":
    study.start()
