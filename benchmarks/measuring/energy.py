"""Joules that the GPUs of this process use, from NVML's energy counters."""

from __future__ import annotations

from types import ModuleType

import torch


class EnergyMeter:
    """Counts from its making on. `joules` is None without a GPU, without pynvml, or on GPUs older than Volta."""

    def __init__(self, device: torch.device):
        self._library = _nvml() if device.type == "cuda" else None
        if self._library is not None:
            index = device.index if device.index is not None else torch.cuda.current_device()
            # CUDA may number visible devices in another way than NVML does; the identifier is the same.
            identifier = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
            self._handle = self._library.nvmlDeviceGetHandleByUUID(identifier)
        self._start = self._read()

    def joules(self) -> float | None:
        """Since the meter was made."""
        now = self._read()
        return None if now is None or self._start is None else now - self._start

    def _read(self) -> float | None:
        if self._library is None:
            return None
        try:
            return self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000
        except self._library.NVMLError:
            return None


def _nvml() -> ModuleType | None:
    try:
        import pynvml
    except ImportError:
        return None
    pynvml.nvmlInit()
    return pynvml
