"""What the machine does during a run: memory and cores of this process; utilisation, memory, power and energy of the GPUs
(NVML, through the package nvidia-ml-py). Where something cannot be measured, its key is absent.
"""

import threading
import time
import warnings
from typing import Any

import psutil
import torch

from engine.distributed.communicator import Communicator

_SAMPLE_SECONDS = 0.5
_GIB = 2**30


class Hardware:
    """Measures between the rows of a run. Only the first rank measures: its own process, and the GPUs that the ranks of
    its machine compute on, so that energy is counted once; images per joule assumes that other machines are alike."""

    def __init__(self, communicator: Communicator):
        self._device = communicator.device
        self._share = communicator.local_world_size / communicator.world_size
        self._process = psutil.Process()
        self._gpus = (
            open_gpus(communicator.local_world_size)
            if communicator.is_main and communicator.device.type == "cuda"
            else None
        )
        self._begin()

    def _begin(self) -> None:
        self._started, self._cpu_seconds = time.monotonic(), time.process_time()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def row(self, images: int) -> dict[str, float]:
        """The figures since the last call, during which all ranks together trained `images` images.

        memory_gib: resident memory of the process. cpu_cores: cores it kept busy. On a GPU also gpu_memory_gib, the peak
        that the process allocated; with NVML gpu_utilization (fraction of the time), gpu_power_watts (sum of the
        machine's GPUs in use) and images_per_joule.
        """
        seconds = max(time.monotonic() - self._started, 1e-9)
        values = {
            "memory_gib": self._process.memory_info().rss / _GIB,
            "cpu_cores": (time.process_time() - self._cpu_seconds) / seconds,
        }
        if self._device.type == "cuda":
            values["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._device) / _GIB
        if self._gpus is not None:
            values |= self._gpus.row(images * self._share, seconds)
        self._begin()
        return {name: round(value, 4) for name, value in values.items()}

    def close(self) -> None:
        """Ends the sampling."""
        if self._gpus is not None:
            self._gpus.close()


class Gpus:
    """Samples utilisation and power in a thread of its own, since asking the driver may take milliseconds."""

    def __init__(self, nvml: Any, handles: list[Any]):
        self._nvml, self._handles = nvml, handles
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._energy = self._joules()
        self._samples: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run, name="gpu-sampling", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            sample = self._sample()
            with self._lock:
                self._samples.append(sample)

    def _sample(self) -> tuple[float, float]:
        """Mean utilisation in percent and total power in watts, now; NaN for what this GPU does not tell."""
        busy = [self._ask(lambda gpu: self._nvml.nvmlDeviceGetUtilizationRates(gpu).gpu, gpu) for gpu in self._handles]
        watts = [self._ask(lambda gpu: self._nvml.nvmlDeviceGetPowerUsage(gpu) / 1000, gpu) for gpu in self._handles]
        return sum(busy) / len(busy), sum(watts)

    def _joules(self) -> float:
        """Energy used since the driver was loaded; NaN on GPUs older than Volta, which do not count it."""
        return sum(
            self._ask(lambda gpu: self._nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000, gpu)
            for gpu in self._handles
        )

    def _ask(self, question: Any, gpu: Any) -> float:
        try:
            return float(question(gpu))
        except self._nvml.NVMLError:
            return float("nan")

    def row(self, images: float, seconds: float) -> dict[str, float]:
        """Means since the last call; `images` were trained on these GPUs in that time."""
        with self._lock:
            samples, self._samples = self._samples, []
        samples = samples or [self._sample()]
        utilization, watts = (sum(column) / len(samples) for column in zip(*samples))
        now = self._joules()
        joules, self._energy = now - self._energy, now
        if joules == joules and joules > 0:
            watts = joules / seconds
        else:
            joules = watts * seconds
        values = {"gpu_utilization": utilization / 100, "gpu_power_watts": watts}
        if joules > 0:
            values["images_per_joule"] = images / joules
        return {name: value for name, value in values.items() if value == value}

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()


def open_gpus(count: int) -> Gpus | None:
    """The first `count` GPUs that this process sees, or None, with a warning that says why, where NVML is missing."""
    try:
        import pynvml
    except ImportError:
        warnings.warn("GPU utilisation and power are not recorded: pip install nvidia-ml-py", stacklevel=2)
        return None
    try:
        pynvml.nvmlInit()
        # By identity, not by number: CUDA_VISIBLE_DEVICES renumbers the GPUs for CUDA and not for NVML.
        names = [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(count)]
        return Gpus(pynvml, [pynvml.nvmlDeviceGetHandleByUUID(name) for name in names])
    except pynvml.NVMLError as error:
        warnings.warn(f"GPU utilisation and power are not recorded: NVML says {error}", stacklevel=2)
        return None
