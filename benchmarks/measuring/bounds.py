"""The machine's bound on a workload's step: measured limits, and the counts of what the step has to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.measuring.counting import Kernel, counts
from benchmarks.measuring.limits import Limits
from benchmarks.measuring.workload import Workload
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


def bound_of(workload: Workload, limits: Limits) -> tuple[float, str]:
    """Images a second over all ranks at most, and whether compute or memory takes most of that time. Every rank must call
    it, with the limits that it measured while the others measured theirs."""
    precision, dtype = ("bf16", torch.bfloat16) if workload.bf16 else ("fp32", torch.float32)
    build = partial(create_model, workload.config.network.name, **workload.network.options)
    step = counts(build, workload.batching.batch_size, workload.resolution, dtype)
    least = step_bound(step.parameters, step.kernels * workload.batching.micro_batches, limits, precision)
    return workload.images / max(workload.communicator.gather(least.seconds)), least.by
