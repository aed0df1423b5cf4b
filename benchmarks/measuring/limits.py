"""What this machine can do at best, measured (matrix throughput, memory and host-to-device bandwidth, JPEG decoding), and the
bound on a training step that follows from that and from the counts of what the step has to do.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch

from benchmarks.measuring.counting import Kernel, counts
from benchmarks.measuring.measure import repeated
from benchmarks.measuring.photos import HEIGHT, WIDTH, photo_like_jpeg
from benchmarks.measuring.workload import Workload
from inception import create_model
from pipelines.decoding.whole_jpeg import usable
from pipelines.support.cores import usable_cores

_MIB = 2**20
# SGD with momentum reads weight, gradient and momentum, and writes weight and momentum, all in fp32.
UPDATE_BYTES = 5 * 4


@dataclass(frozen=True)
class Limits:
    """The measured limits of one device and its host.

    operations: operations a second of the best matrix product, by precision ("fp32", "bf16"); two a multiply-add.
    bandwidths: (bytes moved, bytes a second) of a kernel that reads and writes; small ones live in caches.
    host_to_device: bytes a second from pinned memory; None without a GPU.
    jpegs: decoded images a second, of one thread and of all cores, of `jpeg` = (width, height, bytes).
    """

    operations: dict[str, float]
    bandwidths: tuple[tuple[int, float], ...]
    host_to_device: float | None = None
    jpegs: tuple[float, float] = (math.nan, math.nan)
    jpeg: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def given(cls, operations: dict[str, float], bandwidth: float) -> Self:
        """Those of a machine that is not at hand, with one bandwidth for kernels of any size."""
        return cls(operations, ((1, bandwidth), (2**40, bandwidth)))

    @property
    def bf16_is_faster(self) -> bool:
        """Whether matrix products in bf16 are faster by enough to matter."""
        return self.operations["bf16"] > 1.2 * self.operations["fp32"]

    def bandwidth(self, moved: float) -> float:
        """Bytes a second for a kernel that moves so many bytes, interpolated on a logarithmic scale."""
        sizes, rates = zip(*self.bandwidths)
        return float(np.interp(math.log(max(moved, 1)), np.log(sizes), rates))


def measure_limits(device: torch.device, seconds: float = 0.5) -> Limits:
    """Measures for about `seconds` each; the best of several sizes and repetitions counts, as a limit should."""
    operations = {"fp32": _matrix(device, torch.float32, seconds), "bf16": _matrix(device, torch.bfloat16, seconds)}
    largest = 1024 if device.type == "cuda" else 512
    sizes = [size * _MIB for size in (1, 4, 16, 64, 256, 1024) if size <= largest]
    rates = [_bandwidth(device, size, seconds / len(sizes)) for size in sizes]
    # What fits into a cache can be as fast as main memory at least; a disturbed measurement of a short kernel shows less.
    bandwidths = tuple((size, max(rates[number:])) for number, size in enumerate(sizes))
    photo = photo_like_jpeg(WIDTH, HEIGHT)
    decoding = _decode_rate(photo, 1, seconds), _decode_rate(photo, usable_cores(), seconds)
    copying = _host_to_device(device, seconds) if device.type == "cuda" else None
    return Limits(operations, bandwidths, copying, decoding, (WIDTH, HEIGHT, len(photo)))


def _matrix(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Operations a second of the fastest square matrix product."""
    sides = (4096, 8192) if device.type == "cuda" else (512, 1024, 2048)
    best = 0.0
    for side in sides:
        first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        best = max(best, 2 * side**3 / _shortest(partial(torch.mm, first, second), device, seconds / len(sides)))
    return best


def _bandwidth(device: torch.device, moved: int, seconds: float) -> float:
    """Bytes a second of a kernel that reads half of `moved` bytes and writes the other half."""
    source = torch.ones(moved // 8, device=device)
    target = torch.empty_like(source)
    return moved / _shortest(lambda: torch.mul(source, 2.0, out=target), device, seconds)


def _host_to_device(device: torch.device, seconds: float) -> float:
    host = torch.empty(64 * _MIB, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(host, device=device)
    return host.numel() / _shortest(lambda: target.copy_(host, non_blocking=True), device, seconds)


def _shortest(work: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """The shortest duration of `work` on the device."""
    for _ in range(2):
        work()
    window = repeated(work, 1, seconds=seconds, least=1, device=device)()
    return min(window.steps)


def _decode_rate(photo: bytes, threads: int, seconds: float) -> float:
    """Images a second that `threads` threads decode to full size; decoding releases the interpreter lock."""
    encoded = torch.frombuffer(bytearray(photo), dtype=torch.uint8)
    started, decode = time.perf_counter(), usable()[0].decode

    def decoded(_: int) -> int:
        done = 0
        while not done or time.perf_counter() < started + seconds:
            decode(encoded)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(decoded, range(threads))) / (time.perf_counter() - started)


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
        compute = kernel.operations / limits.operations[precision]
        memory = kernel.bytes / limits.bandwidth(kernel.bytes)
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
