"""Which cores, memory and network adapters a rank should use: those next to its GPU.

A node with several sockets reaches a GPU, and the adapter beside it, quickly from one of them only. The ranks whose
GPUs hang on the same socket share its cores evenly.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GpuPlace:
    """Where a GPU is: its NUMA node (-1 where the machine has one only), cores next to it, adapters next to it."""

    numa_node: int
    cores: frozenset[int]
    adapters: tuple[str, ...] = ()

    @classmethod
    def from_bus_id(cls, bus_id: str, system: Path = Path("/sys")) -> "GpuPlace":
        """Reads the place from sysfs. `bus_id` is nvidia-smi's, 00000000:1B:00.0."""
        # sysfs has four digits of domain and small letters.
        domain, _, rest = bus_id.lower().partition(":")
        device = system / "bus/pci/devices" / f"{domain[-4:]}:{rest}"
        try:
            numa_node = int((device / "numa_node").read_text())
            cores = parse_cores((device / "local_cpulist").read_text())
        except (OSError, ValueError):
            return cls(-1, frozenset())
        return cls(numa_node, cores, nearest_adapters(device, system))


@dataclass(frozen=True)
class Placement:
    """What one rank gets; empty cores mean: leave it where it is."""

    cores: frozenset[int] = frozenset()
    numa_node: int | None = None
    adapters: tuple[str, ...] = ()


def place_rank(
    local_rank: int, local_world_size: int, gpus: Sequence[GpuPlace], allowed: frozenset[int] | None = None,
    cores: int | None = None,
) -> Placement:  # fmt: skip
    """The place of a rank among those of its node; rank i uses GPU i, or the only one it sees, where the launcher shows each
    rank its own (`srun --gpus-per-task=1`).

    `allowed` are the cores it may use (those of this process unless given), `cores` the number that the node has. Where the
    launcher has given the rank cores of its own, and on a node without GPUs, it keeps them all.
    """
    allowed = frozenset(os.sched_getaffinity(0)) if allowed is None else allowed
    alone = len(gpus) == 1 and local_world_size > 1
    if not alone and local_rank >= len(gpus):
        return Placement()
    gpu = gpus[0 if alone else local_rank]
    near = sorted(gpu.cores & allowed)
    if has_own_cores(local_world_size, allowed, cores):
        part = sorted(allowed) if near else []
    elif alone:
        # Whose GPUs are near the same cores is not to be seen from here; ranks are commonly numbered along the sockets.
        sharing = max(1, local_world_size * len(near) // max(1, len(allowed)))
        part = _part(near, local_rank % sharing, sharing)
    else:
        # The ranks that share this socket, in order; each takes its part of the cores.
        beside = [rank for rank in range(min(local_world_size, len(gpus))) if gpus[rank].cores == gpu.cores]
        part = _part(near, beside.index(local_rank), len(beside))
    return Placement(frozenset(part), gpu.numa_node if gpu.numa_node >= 0 else None, gpu.adapters)


def has_own_cores(local_world_size: int, allowed: frozenset[int], cores: int | None = None) -> bool:
    """Whether a rank was given `allowed` for itself (`--cpus-per-task`, `--bind-to core`), judged by their number among the
    node's `cores`. A few cores that all ranks share look alike; those are divided when the ranks have met."""
    return len(allowed) * local_world_size <= (cores or os.cpu_count() or 1)


def _part(cores: list[int], index: int, parts: int) -> list[int]:
    return cores[index * len(cores) // parts : (index + 1) * len(cores) // parts]


def parse_cores(text: str) -> frozenset[int]:
    """The kernel's list of cores, `0-3,8`, written out. Raises ValueError when it is no such list."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def nearest_adapters(device: Path, system: Path = Path("/sys")) -> tuple[str, ...]:
    """The InfiniBand (or RoCE) adapters that share the longest part of a PCI device's path, thus the fewest switches."""
    own = device.resolve().parts
    shared: dict[str, int] = {}
    for adapter in sorted((system / "class/infiniband").glob("*")):
        other = (adapter / "device").resolve().parts
        shared[adapter.name] = next(
            (i for i, (a, b) in enumerate(zip(own, other)) if a != b), min(len(own), len(other))
        )
    best = max(shared.values(), default=0)
    return tuple(name for name, length in shared.items() if length == best)
