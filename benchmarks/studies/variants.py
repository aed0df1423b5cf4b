"""What single options bring to the training step: each beside the plain step, in turns, with what it should have changed.

    python benchmarks/studies/variants.py --network inception_v3 --batch-size 128 --compile default max-autotune \\
        --variants network.fused_norm=true network.pad_channels=4 network.fuse=true,network.fused_norm=true

A variant is options of engine/train.py, joined by commas. `--peers` adds other projects' networks, compiled likewise;
`--warm` compiles one of them all into the compiler's cache and ends before anything runs. Beside the speed stand the graphs
that torch.compile made, its breaks, the kernels that a step launched on a GPU, and the memory it took there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import torch
from rich.console import Console
from torch._dynamo.utils import counters

from benchmarks.measuring.command_line import BenchmarkError, Parser, add_output_options, add_training_options, positive
from benchmarks.measuring.measure import Subject, alternate, one_line, repeated
from benchmarks.measuring.workload import Workload
from benchmarks.peers.networks import build_peer, peer_step, peers_of
from benchmarks.reporting.results import RESULTS, Result
from benchmarks.studies.warming import compile_only
from engine.config.command_line import load_config
from engine.config.options import StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.strategies import join
from engine.faults.exit_status import DONE, run_entry_point
from launch.environment import Environment
from pipelines import Dataset, open_dataset, sample_path

PLAIN = "plain"
MODES = ("eager", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    communicator = join(Environment(), StrategyConfig())
    unknown = set(options.peers) - set(peers_of(options.network))
    if unknown:
        raise BenchmarkError(f"{', '.join(sorted(unknown))} has no {options.network}")
    dataset = open_dataset(sample_path(), "train", progress=False)  # never read: batches are synthetic
    result = Result("variants", vars(options))
    say = Console(highlight=False, soft_wrap=True).print
    for variant in options.variants:
        load_config(_arguments(variant, "eager", options))  # a mistake ends here
    if options.warm is not None:
        return _warm(options, communicator, dataset)
    for mode in options.compile:
        workloads: dict[str, Workload] = {}
        subjects: dict[str, Subject] = {}
        details: dict[str, dict[str, Any]] = {}
        for variant in (PLAIN, *options.variants):
            say(f"preparing {options.network}, {mode}: {variant} ...")
            try:
                config = load_config(_arguments(variant, mode, options))
                workloads[variant] = workload = Workload(config, communicator, dataset, num_classes=1000)
                details[variant], steps = _first_steps(workload, options.seconds)
                subjects[variant] = workload.timed_step(steps)
            except Exception as error:
                if variant == PLAIN:
                    raise
                result.add_failure(_case(variant, mode, options), "images/s", one_line(error))
        for peer in options.peers:
            say(f"preparing {options.network}, {mode}: {peer} ...")
            step = _peer(peer, options, mode, workloads[PLAIN])
            subjects[peer] = repeated(step, options.batch_size, seconds=options.seconds, device=communicator.device)
        measured = alternate(subjects, windows=options.windows, tolerant=True)
        for variant, measurement in measured.items():
            case = _case(variant, mode, options)
            result.add(case, "images/s", measurement, **details.get(variant, {}))
            if variant != PLAIN and measurement.windows and measured[PLAIN].windows:
                ratio = measurement.over(measured[PLAIN])
                result.add(case, "times the plain step", ratio.value, interval=(ratio.low, ratio.high))
        for workload in workloads.values():
            workload.close()
    if communicator.device.type == "cpu":
        result.note("No GPU here: launches and GPU memory are not measured, and no Triton kernel runs.")
    result.print(("spread", "graphs", "breaks", "launches", "gpu_gib", "first_step_seconds"))
    print(f"Written: {result.save(options.output)}")
    return DONE


def _parser() -> Parser:
    parser = Parser("Options of the training step beside the plain step, in turns.")
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--network", default="inception_v3" if on_gpu else "debug", help="name of a network")
    parser.add_argument("--batch-size", type=positive, default=128 if on_gpu else 32, help="images a step")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the step")
    parser.add_argument("--compile", nargs="+", choices=MODES, default=["eager"], help="modes of torch.compile")
    parser.add_argument(
        "--variants", nargs="+", default=["network.pad_channels=4", "network.fuse=false"], help="KEY=VALUE[,KEY=VALUE]"
    )
    parser.add_argument(
        "--peers", nargs="*", default=[], help="other projects' networks beside ours: torchvision, timm"
    )
    parser.add_argument(
        "--warm", default=None, help=f"{PLAIN}, a variant or a peer to compile alone, without running it"
    )
    parser.add_argument("--windows", type=positive, default=5, help="measured windows of each")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a window, about")
    add_training_options(parser)
    add_output_options(parser, RESULTS)
    return parser


def _arguments(variant: str, mode: str, options: Any) -> list[str]:
    """The training's options that make a variant in a mode of compilation."""
    arguments = [
        "--network.name", options.network, "--data.backend", "synthetic", "--data.path", str(sample_path()),
        "--data.batch_size", str(options.batch_size), "--precision", options.precision,
        "--compile.enabled", str(mode != "eager").lower(),
        *(["--compile.mode", mode] if mode != "eager" else []), *options.set,
    ]  # fmt: skip
    for pair in variant.split(",") if variant != PLAIN else ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise BenchmarkError(f"a variant is KEY=VALUE[,KEY=VALUE], not {variant!r}")
        arguments += [f"--{key}", value]
    return arguments


def _case(variant: str, mode: str, options: Any) -> dict[str, str]:
    setting = f"{options.precision}, {mode}, batch {options.batch_size}"
    return {"network": options.network, "variant": variant, "setting": setting}


def _peer(name: str, options: Any, mode: str, beside: Workload) -> Callable[[], Any]:
    """The step of another project's network, on the images of `beside`."""
    network = build_peer(name, options.network)
    compile_mode = None if mode == "eager" else mode
    return peer_step(network, *beside.synthetic, bf16=beside.bf16, compile_mode=compile_mode)


def _warm(options: Any, communicator: Communicator, dataset: Dataset) -> int:
    """Compiles the step of `options.warm` in the first mode; the graphs stay in the compiler's cache."""
    peer = options.warm in options.peers
    arguments = _arguments(PLAIN if peer else options.warm, options.compile[0], options)
    workload = Workload(load_config(arguments), communicator, dataset, num_classes=1000)
    step = _peer(options.warm, options, options.compile[0], workload) if peer else workload.step
    compile_only(step)
    workload.close()
    print(f"{options.network}, {options.warm}: compiled")
    return DONE


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


def _launches(workload: Workload) -> int:
    """Kernels and copies that the GPU ran in one step, as torch.profiler sees them."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        workload.step()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


if __name__ == "__main__":
    run_entry_point(main)
