"""The machine's bound on a workload's step: measured limits, and the counts of what the step has to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.measuring.counting import Kernel, count
from benchmarks.measuring.limits import Limits, measure_limits
from benchmarks.measuring.workload import Workload
from engine.distributed.communicator import Communicator
from inception import create_model

# SGD with momentum reads weight, gradient and momentum, and writes weight and momentum, all in fp32.
UPDATE_BYTES = 5 * 4


@dataclass(frozen=True)
class Bound:
    """The least seconds that kernels take one after the other, each at its own limit."""

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        return self.compute + self.memory

    @property
    def by(self) -> str:
        """What most of the time is bound by."""
        return "compute" if self.compute >= self.memory else "memory"


def bound(kernels: Sequence[Kernel], limits: Limits, precision: str) -> Bound:
    """Sums over the kernels, each bound by its operations or by its bytes, whichever take longer."""
    totals = {"compute": 0.0, "memory": 0.0}
    for kernel in kernels:
        compute, memory = limits.seconds(kernel.operations, kernel.fused_bytes, precision)
        totals["compute" if compute >= memory else "memory"] += max(compute, memory)
    return Bound(**totals)


def step_bound(parameters: int, kernels: Sequence[Kernel], limits: Limits, precision: str) -> Bound:
    """The bound of a whole training step: the kernels, and the optimizer's pass over the weights."""
    work = bound(kernels, limits, precision)
    moved = parameters * UPDATE_BYTES
    return Bound(work.compute, work.memory + moved / limits.bandwidth(moved))


@dataclass(frozen=True)
class Bounds:
    """The limits of this rank, measured while every other rank of the machine measured its own."""

    limits: Limits
    communicator: Communicator

    @classmethod
    def measure(cls, communicator: Communicator, seconds: float) -> Bounds:
        communicator.barrier()
        return cls(measure_limits(communicator.device, seconds), communicator)

    @property
    def bf16_is_faster(self) -> bool:
        """Whether matrix products in bf16 are faster by enough to matter."""
        return self.limits.operations["bf16"] > 1.2 * self.limits.operations["fp32"]

    def of(self, workload: Workload) -> tuple[float, str]:
        """Images a second over all ranks at most, and whether compute or memory takes most of that time."""
        with torch.device("meta"):
            network = create_model(workload.config.network.name, **workload.network.options).train()
        shape = (workload.batching.batch_size, 3, workload.resolution, workload.resolution)
        blocks = count(network, shape, torch.bfloat16 if workload.bf16 else torch.float32)
        kernels = [kernel for block in blocks for kernel in block.kernels] * workload.batching.micro_batches
        parameters = sum(block.parameters for block in blocks)
        least = step_bound(parameters, kernels, self.limits, "bf16" if workload.bf16 else "fp32")
        slowest = max(self.communicator.gather(least.seconds))
        return workload.images / slowest, least.by
