"""Joules that the GPUs of this process use, from NVML's energy counters."""

from __future__ import annotations

from types import ModuleType

import torch


class EnergyMeter:
    """Counts from its making on. `joules` is None without a GPU, without pynvml, on GPUs older than Volta, and where NVML has no
    counter to give: of a part of a GPU (MIG), or without a driver to ask. `reason` says why."""

    def __init__(self, device: torch.device):
        self.reason = "" if device.type == "cuda" else "no GPU in use"
        self._library = _nvml() if device.type == "cuda" else None
        if self._library is not None:
            index = device.index if device.index is not None else torch.cuda.current_device()
            # CUDA may number visible devices in another way than NVML does; the identifier is the same.
            identifier = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
            try:
                self._library.nvmlInit()
                self._handle = self._library.nvmlDeviceGetHandleByUUID(identifier)
            except self._library.NVMLError as error:
                self._library, self.reason = None, f"NVML does not know this GPU ({error})"
        elif not self.reason:
            self.reason = "pynvml is not installed"
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
        except self._library.NVMLError as error:
            self.reason = f"NVML does not count this GPU's energy ({error})"
            return None


def _nvml() -> ModuleType | None:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml
