"""Cores divided among ranks: what is shared, not what is bound; together no more and no fewer than there are."""

from __future__ import annotations

import pytest
import torch

from engine.distributed.cores import Claim, shares


def claim(cores, quota=None, machine="m1", container="c1"):
    return Claim(machine, container, frozenset(cores), quota)


NODE = range(104)
CASES = {
    "torchrun: all ranks may use all cores": ([claim(NODE)] * 8, [13] * 8),
    "srun --cpus-per-task: cores of its own": ([claim(range(13 * i, 13 * i + 13)) for i in range(8)], [13] * 8),
    "mpirun --bind-to package: four ranks a socket": (
        [claim(range(52))] * 4 + [claim(range(52, 104))] * 4, [13] * 8,
    ),
    "no core is left idle": ([claim(range(10))] * 4, [3, 3, 2, 2]),
    "unequal bindings": ([claim(range(2)), claim(range(8)), claim(range(8))], [2, 3, 3]),
    "fewer cores than ranks": ([claim({0})] * 3, [1, 1, 1]),
    "a container's quota": ([claim(NODE, 16)] * 4, [4] * 4),
    "a quota that does not divide": ([claim(NODE, 6)] * 4, [2, 2, 1, 1]),
    "a quota below the ranks": ([claim(NODE, 2)] * 4, [1] * 4),
    "a quota above what is bound": ([claim(range(i, i + 1), 64) for i in range(4)], [1] * 4),
    "two pods of one machine, a quota each": (
        [claim(NODE, 8, container="a")] * 2 + [claim(NODE, 4, container="b")] * 2, [4, 4, 2, 2],
    ),
    "nodes of several sizes": ([claim(range(8), machine="a")] * 2 + [claim(range(3), machine="b")] * 2, [4, 4, 2, 1]),
    "ranks dealt to the nodes in turns": ([claim(range(4), machine=name) for name in "abab"], [2, 2, 2, 2]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_cores_are_divided(case):
    claims, expected = CASES[case]
    assert shares(claims) == expected


def test_a_rank_alone_decodes_and_computes_on_all_that_it_may_use():
    from engine.config.options import StrategyConfig
    from engine.distributed import device
    from engine.distributed.strategies import join
    from launch.environment import Environment

    threads = torch.get_num_threads()
    try:
        communicator = join(Environment(), StrategyConfig(), "cpu")
        assert communicator.cores == torch.get_num_threads() == device.usable_cores()
    finally:
        torch.set_num_threads(threads)
