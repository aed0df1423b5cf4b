"""What this machine can do at best, measured: matrix throughput, memory and host-to-device bandwidth, JPEG decoding."""

import io
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring.measure import repeated
from pipelines.decoding.whole_jpeg import usable
from pipelines.support.cores import usable_cores

_MIB = 2**20


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

    def seconds(self, operations: float, moved: float, precision: str) -> tuple[float, float]:
        """The least seconds that a kernel's operations and its bytes take."""
        return operations / self.operations[precision], moved / self.bandwidth(moved)


def measure_limits(device: torch.device, seconds: float = 0.5) -> Limits:
    """Measures for about `seconds` each; the best of several sizes and repetitions counts, as a limit should."""
    operations = {"fp32": _matrix(device, torch.float32, seconds), "bf16": _matrix(device, torch.bfloat16, seconds)}
    largest = 1024 if device.type == "cuda" else 512
    sizes = [size * _MIB for size in (1, 4, 16, 64, 256, 1024) if size <= largest]
    rates = [_bandwidth(device, size, seconds / len(sizes)) for size in sizes]
    # What fits into a cache can be as fast as main memory at least; a disturbed measurement of a short kernel shows less.
    bandwidths = tuple((size, max(rates[number:])) for number, size in enumerate(sizes))
    width, height = 500, 375
    jpeg = photo_like_jpeg(width, height)
    decoding = _decode_rate(jpeg, 1, seconds), _decode_rate(jpeg, usable_cores(), seconds)
    copying = _host_to_device(device, seconds) if device.type == "cuda" else None
    return Limits(operations, bandwidths, copying, decoding, (width, height, len(jpeg)))


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


def _decode_rate(jpeg: bytes, threads: int, seconds: float) -> float:
    """Images a second that `threads` threads decode to full size; decoding releases the interpreter lock."""
    encoded = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
    started, decode = time.perf_counter(), usable()[0].decode

    def decoded(_: int) -> int:
        done = 0
        while not done or time.perf_counter() < started + seconds:
            decode(encoded)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(decoded, range(threads))) / (time.perf_counter() - started)


def photo_like_jpeg(width: int, height: int, quality: int = 85, seed: int = 0) -> bytes:
    """A JPEG of noise whose amplitude falls with frequency as in photographs; the same bytes for the same arguments."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128.0)
    for octave in range(8):
        side = 2 ** (octave + 1)
        noise = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pixels += (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), float) - 128) / 1.3**octave / 1.5
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()
