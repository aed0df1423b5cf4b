"""Counts what a compiled training step launches on an H100 and the bytes that its Triton kernels move, without a GPU.

    python tests/support/step_launches.py --networks inception_v3 inception_v4 inception_resnet_v2 --batch-size 128

Nothing is timed: torch.compile plans for a GPU that this process pretends to have, and its plan is counted
(`compiled_launches.py`). Ways: *plain*, our network without options; *fused*, with `network.fuse`, `network.fused_norm`
and `compile.combo_kernels`; and timm's. Each in a process of its own, for minutes. Optimizer and average are counted beside.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

from benchmarks.measuring import BenchmarkError, Parser, as_arguments
from benchmarks.peers.networks import build_peer, peer_loss, peers_of
from benchmarks.reporting.results import Result
from engine.config.options import OptimizerConfig
from engine.faults.exit_status import DONE, run_entry_point
from engine.graphs.compilation import COMBO_KERNELS
from inception import create_model
from update_launches import update_launches

WAYS = ("plain", "fused", "timm")
# Bytes a second that each moves, both measured by a copy within its memory.
BANDWIDTH = {"H100": 3.0e12, "H200": 4.3e12}


def main(arguments: Sequence[str]) -> int:
    names = ["inception_v3", "inception_v4", "inception_resnet_v2"]
    words = "Launches and bytes of a compiled step, counted without a GPU."
    parser = Parser(words, networks=names, batch_size=128, resolution=0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="whose step, with options or not")
    parser.add_argument("--alone", action="store_true", help="count one network one way, in this process, as JSON")
    options = parser.parse_args(arguments)
    if options.alone:
        print(json.dumps(count_step(options.networks[0], options.ways[0], options.batch_size, options.resolution)))
        return DONE
    result = Result("step_launches", options)
    for network in options.networks:
        for way in options.ways:
            if way == "timm" and "timm" not in peers_of(network):
                continue
            print(f"planning {network}, {way} ...", flush=True)
            counted = _in_a_process(network, way, options)
            case = {"network": network, "way": way}
            totals = counted["totals"]
            totals |= {f"us an image on an {name} at least": totals["MB an image"] * 1e12 / bandwidth
                       for name, bandwidth in BANDWIDTH.items()}  # fmt: skip
            for metric, value in totals.items():
                result.add(case, metric, value)
            for name, (launches, moved) in counted["kernels"].items():
                print(f"  {moved:7.2f} MB an image  {launches:4d} launches  {name}")
        for name in ("sgd", "rmsprop"):
            launches = update_launches(create_model(network), OptimizerConfig(name=name))  # type: ignore[arg-type]
            result.add({"network": network, "way": name}, "launches of the update", launches["optimizer"])
        result.add({"network": network, "way": "average"}, "launches of the update", launches["average"])
    result.note(
        f"Planned by torch {torch.__version__} for an H100, in bf16, batch {options.batch_size}; counted, not measured. Bytes "
        "and the time that they take at least are those of Triton kernels alone, without convolutions."
    )
    result.finish()
    return DONE


def count_step(network: str, way: str, batch_size: int, resolution: int = 0) -> dict[str, Any]:
    """Totals of a step, and launches and MB an image of each kind of kernel. The process pretends from then on."""
    from compiled_launches import compiled_launches
    from pretended_gpu import pretend

    pretend()
    torch.manual_seed(0)
    loss, size = _loss(network, way)
    size = resolution or size
    images = torch.empty(batch_size, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.zeros(batch_size, dtype=torch.int64)
    launches = compiled_launches(loss, (images, labels), COMBO_KERNELS if way == "fused" else None)
    kinds: dict[str, tuple[int, float]] = {}
    triton: Counter[str] = Counter()
    for launch in launches:
        known, moved = kinds.get(launch.name, (0, 0.0))
        kinds[launch.name] = (known + launch.launches, moved + launch.bytes / batch_size / 1e6)
        triton["other" if not launch.triton else "backward" if launch.backward else "forward"] += launch.launches
    totals = {
        "MB an image": sum(moved for _, moved in kinds.values()),
        "launches": triton["forward"] + triton["backward"],
        "launches forward": triton["forward"],
        "launches backward": triton["backward"],
        "convolutions and matrix products": triton["other"],
    }
    return {"totals": totals, "kernels": dict(sorted(kinds.items(), key=lambda kind: -kind[1][1]))}


def _loss(name: str, way: str) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
    """A network's loss of uint8 images and labels, as the training step compiles it, and its image size."""
    from engine.graphs.objective import Objective
    from inception.speed import block_levels, norm_relu

    if way == "timm":
        peer = build_peer("timm", name).to(memory_format=torch.channels_last).train()
        _without_dropout(peer)
        return peer_loss(peer, bf16=True), create_model(name, 1, width=0.1).input_size
    fused = way == "fused"
    for module in (block_levels, norm_relu):
        module.kernels_serve = lambda x: True  # type: ignore[attr-defined]
    network = create_model(name, fuse=fused, fused_norm=fused).to(memory_format=torch.channels_last).train()
    _without_dropout(network)
    objective = Objective(network, network.auxiliary_weights, 0.1, torch.bfloat16)
    return lambda images, labels: objective(images, labels)[0], network.input_size


def _without_dropout(network: nn.Module) -> None:
    """Random numbers come from another place on a GPU than where the step is traced."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _in_a_process(network: str, way: str, options: Any) -> dict[str, Any]:
    told = {"networks": network, "ways": way, "batch-size": options.batch_size, "resolution": options.resolution}
    command = [sys.executable, str(Path(__file__).resolve()), "--alone", *as_arguments(told)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise BenchmarkError(f"{network}, {way} could not be planned; the reason stands above")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    run_entry_point(main)
