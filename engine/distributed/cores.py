"""Which of a machine's cores are a rank's own. Launchers differ: torchrun's ranks may all use all cores, SLURM and
`launch/rank.py` bind each to a part, OpenMPI to a socket that some share. What is shared is divided, what is not stays whole.
"""

import os
import socket
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from engine.distributed.communicator import Communicator
from pipelines.support.cores import granted_cores

_BOOT = Path("/proc/sys/kernel/random/boot_id")  # one for all containers of a machine, however they call themselves


@dataclass(frozen=True)
class Claim:
    """What one rank may use: `cores` of `machine`, and with the others of `container` the time of `quota` cores (None: all)."""

    machine: str
    container: str
    cores: frozenset[int]
    quota: int | None = None


def divide_cores(communicator: Communicator) -> None:
    """Settles `communicator.cores` and the threads that torch computes with; every rank must call it."""
    host = socket.gethostname()
    machine = _BOOT.read_text() if _BOOT.exists() else host
    claims = communicator.gather(Claim(machine, host, frozenset(os.sched_getaffinity(0)), granted_cores()))
    communicator.cores = cores = shares(claims)[communicator.rank]
    # Beside a GPU the cores decode; torch has as few threads of its own as the launcher gave it.
    torch.set_num_threads(cores if communicator.device.type == "cpu" else min(cores, torch.get_num_threads()))


def shares(claims: Sequence[Claim]) -> list[int]:
    """How many cores each rank has: all ranks' together are the cores that any of them may use, or their quota. At least 1."""
    found = [0] * len(claims)
    for ranks in _together(claims, [claim.machine for claim in claims]):
        claimants: dict[int, list[int]] = defaultdict(list)
        for rank in ranks:
            for core in claims[rank].cores:
                claimants[core].append(rank)
        # Those that few may use go first, each to the rank that has least so far.
        for _, candidates in sorted(claimants.items(), key=lambda item: (len(item[1]), item[0])):
            found[min(candidates, key=lambda rank: (found[rank], rank))] += 1
    found = [max(1, cores) for cores in found]
    for ranks in _together(claims, [claim.machine + claim.container for claim in claims]):
        quota = min((claims[rank].quota or sum(found) for rank in ranks), default=0)
        while sum(found[rank] for rank in ranks) > max(quota, len(ranks)):
            found[max(ranks, key=lambda rank: (found[rank], rank))] -= 1
    return found


def _together(claims: Sequence[Claim], places: Sequence[str]) -> Iterator[list[int]]:
    """The ranks of each place, in order."""
    ranks = sorted(range(len(claims)), key=lambda rank: (places[rank], rank))
    for _, group in groupby(ranks, key=lambda rank: places[rank]):
        yield list(group)
