"""Our networks beside torchvision's and timm's: the same training step and inference on the same images, in turns.

    python benchmarks/networks.py
    python benchmarks/networks.py --networks inception_v3 --batch-sizes 32 --precisions fp32 bf16 --work training inference

No data, no loss of our own: only the network differs between the contestants of a row. Also the time to make a network
with fresh weights. On the GPU if there is one, else on the CPU; there `--clock cpu --threads 1` counts processor time, which
stays comparable on a machine that has other things to do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import torch
from torch import Tensor, nn

import inception
from benchmarks.measuring.command_line import BenchmarkError, Parser, add_output_options, positive
from benchmarks.measuring.measure import Measurement, Window, alternate, repeated
from benchmarks.peers.networks import SETTING, build_peer, peer_step, peers_of
from benchmarks.reporting.results import RESULTS, Result
from engine.distributed.device import choose_device
from engine.faults.exit_status import DONE, run_entry_point
from launch.environment import detect

OURS, APART, PLAIN = "ours", "ours, convolutions apart", "ours, normalisation apart"
PUBLISHED = [name for name in inception.list_models() if name != "debug"]


def main(arguments: Sequence[str]) -> int:
    """Measures what the command line asks for, prints the table and writes the JSON file; returns the exit status."""
    options = _parser().parse_args(arguments)
    device = choose_device(detect())
    if options.clock == "cpu" and device.type != "cpu":
        raise BenchmarkError("--clock cpu counts the processor's time; on a GPU use --clock wall")
    if options.threads:
        torch.set_num_threads(options.threads)
    result = Result("networks", vars(options))
    for name in options.networks if "creation" in options.work else ():
        _measure_creation(result, name)
    steps = [work for work in options.work if work != "creation"]
    for name, work, precision, batch in product(options.networks, steps, options.precisions, options.batch_sizes):
        case = {"network": name, "work": work, "precision": precision, "batch": batch, "device": device.type}
        case |= {"compile": True} if options.compile else {}
        case |= {"clock": "cpu"} if options.clock == "cpu" else {}
        _compare(result, case, _subjects(case, options, device), options)
    result.note(f"Training steps: {SETTING}. Ratios are of turns taken side by side; above 1, ours is faster.")
    result.print()
    print(f"wrote {result.save(options.output)}")
    return DONE


def _parser() -> Parser:
    parser = Parser("Our networks beside torchvision's and timm's.")
    parser.add_argument("--networks", nargs="+", choices=PUBLISHED, default=PUBLISHED, metavar="NAME")
    parser.add_argument(
        "--work",
        nargs="+",
        choices=["training", "inference", "creation"],
        default=["training", "inference", "creation"],
    )
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--batch-sizes", nargs="+", type=positive, default=[32], metavar="IMAGES")
    parser.add_argument("--resolution", type=positive, help="pixels (default: the network's own)")
    parser.add_argument(
        "--apart",
        action="store_true",
        help="our networks without merged convolutions, and with PyTorch's normalisation, too",
    )
    parser.add_argument("--compile", action="store_true", help="all contestants under torch.compile")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: the cores)")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="what seconds are (cpu: processor time)"
    )
    parser.add_argument("--windows", type=positive, default=5, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=1.0, help="least length of a turn; at least one step")
    parser.add_argument("--budget", type=float, default=600.0, help="most seconds for one row's turns")
    add_output_options(parser, RESULTS)
    return parser


def _networks(name: str, apart: bool) -> dict[str, Callable[[], nn.Module]]:
    """How to make each contestant; ours as engine/train.py makes it."""
    makers: dict[str, Callable[[], nn.Module]] = {OURS: partial(inception.create_model, name, fuse=None)}
    if apart:
        makers[APART] = partial(inception.create_model, name, fuse=False)
        makers[PLAIN] = partial(inception.create_model, name, fuse=None, fused_norm=False)
    return makers | {peer: partial(build_peer, peer, name) for peer in peers_of(name)}


def _subjects(case: dict[str, Any], options: Any, device: torch.device) -> dict[str, Any]:
    """One callable a contestant, each with a network of its own and all with the same images."""
    size = options.resolution or inception.create_model(case["network"]).input_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (case["batch"], 3, size, size), dtype=torch.uint8, generator=generator)
    images = pixels.to(device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (case["batch"],), generator=generator).to(device)
    bf16, mode = case["precision"] == "bf16", "default" if options.compile else None
    subjects: dict[str, Any] = {}
    for contestant, make in _networks(case["network"], options.apart).items():
        network = make().to(device)
        if case["work"] == "training":
            step = peer_step(network, images, labels, bf16=bf16, compile_mode=mode)
        else:
            step = _inference(network, images, bf16, mode)
        if options.clock == "cpu":
            subjects[contestant] = partial(_processor_window, step, case["batch"])
        else:
            subjects[contestant] = repeated(step, case["batch"], seconds=options.seconds, least=1, device=device)
    return subjects


def _processor_window(step: Callable[[], Any], units: float) -> Window:
    """One step, by the processor time of this process."""
    started = time.process_time()
    step()
    return Window(units, time.process_time() - started)


def _inference(network: nn.Module, images: Tensor, bf16: bool, mode: str | None) -> Callable[[], Any]:
    network = network.to(memory_format=torch.channels_last).eval()
    function = network if mode is None else torch.compile(network, mode=mode, dynamic=False)

    def step() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            function((images.float() / 255 - 0.5) / 0.5)

    return step


def _compare(result: Result, case: dict[str, Any], subjects: dict[str, Any], options: Any) -> None:
    """Measures the contestants of one row in turns and adds their rates and ours over theirs."""
    measured = alternate(subjects, windows=options.windows, budget_seconds=options.budget)
    for contestant, measurement in measured.items():
        result.add({**case, "contestant": contestant}, "images/s", measurement)
    for contestant, measurement in measured.items():
        if contestant != OURS and measurement.windows and measured[OURS].windows:
            _add_ratio(result, {**case, "ours over": contestant}, measured[OURS], measurement)


def _add_ratio(result: Result, case: dict[str, Any], ours: Measurement, theirs: Measurement) -> None:
    ratio = ours.over(theirs)
    result.add(case, "times as fast", ratio.value, interval=(ratio.low, ratio.high))


def _measure_creation(result: Result, name: str) -> None:
    """The seconds that making a network with fresh weights takes."""
    case = {"network": name, "work": "creation"}
    makers = _networks(name, apart=False)
    measured = alternate({contestant: repeated(make, 1, seconds=0, least=1) for contestant, make in makers.items()})
    for contestant, measurement in measured.items():
        seconds = [window.seconds for window in measurement.windows]
        if seconds:
            result.add({**case, "contestant": contestant}, "seconds", seconds, higher_is_better=False)
        else:
            result.add_failure({**case, "contestant": contestant}, "seconds", measurement.failure or "nothing measured")


if __name__ == "__main__":
    run_entry_point(main)
