"""A process that takes itself to have an H100: torch.compile plans for one, on a machine without. Nothing can run there.

A trick upon what torch keeps to itself, for processes that do nothing else: there is no way back.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

DEVICE = torch.device("cuda", 0)
NAME = "NVIDIA H100 80GB HBM3"
_PROPERTIES = SimpleNamespace(
    name=NAME, major=9, minor=0, multi_processor_count=132, total_memory=85 * 10**9, regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32, L2_cache_size=50 * 2**20,
    shared_memory_per_block=49152, shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472,
    gcnArchName="", clock_rate=1980000, memory_clock_rate=2619000, memory_bus_width=5120, is_integrated=0, uuid="0",
)  # fmt: skip


def pretend() -> None:
    """From here on this process has an H100, for those who ask and do not try."""
    import torch._dynamo.device_interface as interfaces
    from torch._subclasses import fake_tensor

    cuda: Any = torch.cuda
    answers = {
        "is_available": True, "device_count": 1, "current_device": 0, "get_device_properties": _PROPERTIES,
        "get_device_capability": (9, 0), "get_device_name": NAME, "is_bf16_supported": True, "is_initialized": True,
        "synchronize": None, "set_device": None, "_lazy_init": None, "_exchange_device": 0, "_maybe_exchange_device": 0,
        "memory_allocated": 0, "mem_get_info": (80 * 10**9, 85 * 10**9), "is_current_stream_capturing": False,
        "current_stream": SimpleNamespace(stream_id=0, cuda_stream=0, device_index=0, device_type=1),
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(cuda, name, _always(answer))
        known = name.removeprefix("_")
        if hasattr(interfaces.CudaInterface, known):
            setattr(interfaces.CudaInterface, known, staticmethod(_always(answer)))
    cuda.graphs.is_current_stream_capturing = _always(False)
    cuda.get_rng_state, cuda.set_rng_state = (lambda *_, **__: torch.get_rng_state()), _always(None)
    cuda.device = interfaces.CudaInterface.device = _Nothing  # type: ignore[misc]
    interfaces.CudaInterface.get_raw_stream = staticmethod(_always(0))
    torch.accelerator.is_available = _always(False)
    fake_tensor.init_gpu_context = _always(None)
    _shapes_without_copies()
    # Convolutions on the CPU, where the network is traced, give the memory format that a GPU's give.
    torch._C._conv_determine_backend_memory_format = _always(torch.channels_last)  # type: ignore[attr-defined]
    _pretend_to_triton()


def _shapes_without_copies() -> None:
    """In passes over its graphs inductor tries copies on the GPU to find out whether shapes fit; here they are left out."""
    from torch._inductor import compile_fx

    passes = compile_fx.post_grad_passes

    def without(*arguments: Any, **options: Any) -> Any:
        with patch.object(torch.Tensor, "copy_", lambda whole, *_: whole):
            return passes(*arguments, **options)

    compile_fx.post_grad_passes = without


def _pretend_to_triton() -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=_always(0),
            get_current_stream=_always(0), is_active=_always(True),
        )
    )  # fmt: skip


class _Nothing(contextlib.AbstractContextManager[None]):
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        return None


def _always(answer: Any) -> Any:
    return lambda *_, **__: answer
