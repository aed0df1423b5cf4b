"""What the machine is doing, in one line."""

import contextlib
from typing import Any

import psutil


class MachineLoad:
    """Reads processors, memory, and GPUs where NVML is."""

    def __init__(self) -> None:
        self._nvml: Any = None
        with contextlib.suppress(Exception):  # no package, no driver, no GPU: its line then has no GPU
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
        psutil.cpu_percent()  # the first call has nothing to compare with

    def line(self) -> str:
        """Such as "CPU 93%, memory 11 of 24 GiB, GPU 0 98% 41 of 80 GiB"."""
        memory = psutil.virtual_memory()
        parts = [
            f"CPU {psutil.cpu_percent():.0f}%",
            f"memory {_gib(memory.total - memory.available)} of {_gib(memory.total)} GiB",
        ]
        if self._nvml is not None:
            for index in range(self._nvml.nvmlDeviceGetCount()):
                with contextlib.suppress(self._nvml.NVMLError):  # MIG has no utilisation
                    gpu = self._nvml.nvmlDeviceGetHandleByIndex(index)
                    held, busy = self._nvml.nvmlDeviceGetMemoryInfo(gpu), self._nvml.nvmlDeviceGetUtilizationRates(gpu)
                    parts.append(f"GPU {index} {busy.gpu}% {_gib(held.used)} of {_gib(held.total)} GiB")
        return ", ".join(parts)


def _gib(count: int) -> str:
    return f"{count / 2**30:.0f}"
