"""Our networks beside torchvision's and timm's: the same training step and inference on the same images, in turns.

    python benchmarks/networks.py
    python benchmarks/networks.py --networks inception_v3 --batch-sizes 32 --precisions fp32 bf16 --work training inference

No data, no loss of our own: only the network differs between the contestants of a row. Also the time to make a network
with fresh weights. On the GPU if there is one, else on the CPU.
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn

import inception
from benchmarks.measuring import alternate, repeated
from benchmarks.peers.networks import SETTING, build_peer, peer_step, peers_of
from benchmarks.reporting import Result, Study
from engine.distributed.device import choose_device
from launch.environment import detect

OURS, APART, PLAIN = "ours", "ours, convolutions apart", "ours, normalisation apart"
WORK = ["training", "inference", "creation"]
PUBLISHED = [name for name in inception.list_models() if name != "debug"]

study = Study("networks", __doc__, batch_sizes=[32], resolution=None, windows=5, seconds=1.0, budget=600.0)
study.option("--networks", nargs="+", choices=PUBLISHED, default=PUBLISHED, metavar="NAME")
study.option("--work", nargs="+", choices=WORK, default=WORK, help="what is timed")
study.option("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
study.option("--apart", action="store_true", help="ours without merged convolutions or own normalisation")
study.option("--compile", action="store_true", help="all contestants under torch.compile")


@study
def main(options: Any, result: Result) -> None:
    device = choose_device(detect())
    for name in options.networks if "creation" in options.work else ():
        _measure_creation(result, name)
    steps = [work for work in WORK[:2] if work in options.work]
    for name, work, precision, batch in product(options.networks, steps, options.precisions, options.batch_sizes):
        case = {"network": name, "work": work, "precision": precision, "batch": batch, "device": device.type}
        case |= {"compile": True} if options.compile else {}
        result.say(f"measuring {name}, {work}, {precision}, batch {batch} ...")
        measured = alternate(_subjects(case, options, device), windows=options.windows, budget_seconds=options.budget)
        result.add_each(case, "contestant", "images/s", measured)
        ours = measured.pop(OURS)
        for contestant, theirs in measured.items():
            if theirs.windows and ours.windows:
                result.add({**case, "ours over": contestant}, "times as fast", ours.over(theirs))
    result.note(f"Training steps: {SETTING}. Ratios are of turns taken side by side; above 1, ours is faster.")


def _networks(name: str, apart: bool) -> dict[str, Callable[[], nn.Module]]:
    """How to make each contestant; ours as engine/train.py makes it."""
    make = partial(inception.create_model, name)
    makers: dict[str, Callable[[], nn.Module]] = {OURS: partial(make, fuse=None)}
    makers |= {APART: partial(make, fuse=False), PLAIN: partial(make, fuse=None, fused_norm=False)} if apart else {}
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
        subjects[contestant] = repeated(step, case["batch"], seconds=options.seconds, least=1, device=device)
    return subjects


def _inference(network: nn.Module, images: Tensor, bf16: bool, mode: str | None) -> Callable[[], Any]:
    network = network.to(memory_format=torch.channels_last).eval()
    function = network if mode is None else torch.compile(network, mode=mode, dynamic=False)

    def step() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            function((images.float() / 255 - 0.5) / 0.5)

    return step


def _measure_creation(result: Result, name: str) -> None:
    """The seconds that making a network with fresh weights takes."""
    makers = _networks(name, apart=False)
    measured = alternate({contestant: repeated(make, 1, seconds=0, least=1) for contestant, make in makers.items()})
    seconds = {contestant: [1 / rate for rate in m.rates] if m.windows else m for contestant, m in measured.items()}
    case = {"network": name, "work": "creation"}
    result.add_each(case, "contestant", "seconds", seconds, higher_is_better=False)


if __name__ == "__main__":
    study.start()
