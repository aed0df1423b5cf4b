"""Batch normalisation and ReLU on a CPU as two passes forward and two backward, in C (norm_cpu.c).

The C is compiled on first use, for this machine's processor, and kept in the user's cache. Without a C compiler
`library` says why, and PyTorch's own operations do the work.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from inception.speed.cache import user_cache

_SOURCE = Path(__file__).with_suffix(".c")
# OpenMP's library is the one that torch has loaded, so its threads are torch's.
_COMMAND = ("cc", "-std=gnu11", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_LEAST = 1 << 14
"""Values below which a second thread costs more than it brings."""

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


@functools.cache
def library() -> tuple[ctypes.CDLL | None, str]:
    """The compiled C, or nothing and why."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    built_for = repr((_COMMAND, processor, platform.libc_ver()))
    name = sha256(_SOURCE.read_bytes() + built_for.encode()).hexdigest()[:16]
    cache = user_cache()
    file = cache / f"norm_cpu-{name}.so"
    try:
        if not file.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:  # renamed when whole: ranks may compile at once
                made = Path(folder) / file.name
                subprocess.run([*_COMMAND, str(_SOURCE), "-o", str(made)], check=True, capture_output=True, text=True)
                made.rename(file)
        found = ctypes.CDLL(str(file))
    except subprocess.CalledProcessError as error:
        return None, next((line for line in error.stderr.splitlines() if "error" in line), "the C compiler failed")
    except OSError as error:
        return None, f"{error.filename or file}: {error.strerror or error}"
    shape = (_LONG, _LONG, _INT, _INT)
    found.norm_relu_forward.argtypes = (
        _POINTER,
        _LONG,
        _POINTER,
        *shape,
        *(_POINTER,) * 4,
        ctypes.c_float,
        ctypes.c_double,
        _POINTER,
        _POINTER,
    )
    found.norm_relu_backward.argtypes = (_POINTER, _LONG, _POINTER, _LONG, _POINTER, *shape, *(_POINTER,) * 6)
    return found, ""


def row_stride(x: Tensor) -> int | None:
    """Numbers from one row of `x` (N, C, H, W) to the next where it lies in memory as a matrix of rows by channels, else
    None. A slice of the channels of a channels-last tensor does."""
    images, channels, height, width = x.shape
    across, down, between = x.stride(3), x.stride(2), x.stride(0)
    stride = across if width > 1 else down if height > 1 else between if images > 1 else channels
    follows = (
        width == 1 or across == stride,
        height == 1 or down == width * stride,
        images == 1 or between == height * width * stride,
        channels == 1 or x.stride(1) == 1,
    )
    return stride if all(follows) and stride >= channels else None


class NormRelu(torch.autograd.Function):
    """ReLU of the batch normalisation of x, (N, C, H, W) in channels_last, float32 or bfloat16, by the batch's own
    statistics. `weight`, `bias` and the running statistics, which it updates, are float32 (C)."""

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y = torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last)
        mean, deviation = torch.empty_like(weight), torch.empty_like(weight)
        vectors = (weight, bias, running_mean, running_var)
        failed = _library().norm_relu_forward(
            x.data_ptr(),
            row_stride(x),
            y.data_ptr(),
            *_sizes(x),
            *_addresses(*vectors),
            momentum,
            eps,
            *_addresses(mean, deviation),
        )
        if failed:
            raise MemoryError("no memory for the sums of a batch normalisation")
        context.save_for_backward(x, weight, bias, mean, deviation)
        return y

    @staticmethod
    @once_differentiable
    def backward(context: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, deviation = context.saved_tensors
        dy = dy if row_stride(dy) is not None else dy.contiguous(memory_format=torch.channels_last)
        dx = torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last)
        dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
        failed = _library().norm_relu_backward(
            x.data_ptr(),
            row_stride(x),
            dy.data_ptr(),
            row_stride(dy),
            dx.data_ptr(),
            *_sizes(x),
            *_addresses(weight, bias, mean, deviation, dweight, dbias),
        )
        if failed:
            raise MemoryError("no memory for the sums of a batch normalisation's gradient")
        return dx, dweight, dbias, None, None, None, None


def _library() -> ctypes.CDLL:
    found, reason = library()
    if found is None:
        raise RuntimeError(reason)
    return found


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    """Rows, channels, whether they are bfloat16, and threads for them."""
    threads = torch.get_num_threads() if x.numel() >= _LEAST else 1
    return x.numel() // x.shape[1], x.shape[1], int(x.dtype == torch.bfloat16), threads


def _addresses(*vectors: Tensor) -> list[int]:
    return [vector.data_ptr() for vector in vectors]
