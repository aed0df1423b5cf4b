"""What one rank finds about its node before a run: what is there, and how fast it is."""

import os
import platform
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

_READ_BYTES = 64 << 20
_CARD = "name,driver_version,clocks.sm,clocks.max.sm,memory.free"


def node_name() -> str:
    """As SLURM calls this node, else its host name."""
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())


def examine(device: torch.device, data: Path | None) -> dict[str, Any]:
    """Facts, which nodes should share, and figures of this rank's node: rates in which more is better, and room in bytes."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernel": platform.release(),
        "GPUs": torch.cuda.device_count(),
        "adapters that are up": len(adapters()),
        "NVLinks": nvlinks(),
    }
    figures = {
        "matrix product [TFLOP/s]": matrix_product(device),
        "free memory [GiB]": psutil.virtual_memory().available / 2**30,
    }
    if device.type == "cuda":
        facts["GPU"], facts["driver"], clock, highest, free = card(device)
        figures |= {
            "clock [share of the highest]": float(clock) / float(highest),
            "free GPU memory [GiB]": float(free) / 1024,
        }
    if data is not None:
        facts["dataset is there"] = data.exists()
        if data.exists():
            figures["free disk of the dataset [GiB]"] = shutil.disk_usage(data).free / 2**30
            figures |= reading(data)
    return {"facts": facts, "figures": figures}


def card(device: torch.device) -> list[str]:
    """The driver's words for what `_CARD` asks of a GPU."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    asked = ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={_CARD}", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    return [cell.strip() for cell in done.stdout.strip().split(",")]


def nvlinks() -> int:
    """Links between GPUs that are up on this node."""
    if shutil.which("nvidia-smi") is None:
        return 0
    done = subprocess.run(["nvidia-smi", "nvlink", "--status"], capture_output=True, text=True, timeout=60, check=False)
    return sum("GB/s" in line for line in done.stdout.splitlines())


def adapters(system: Path = Path("/sys")) -> list[str]:
    """Ports of InfiniBand or RoCE adapters that are up."""
    states = sorted((system / "class/infiniband").glob("*/ports/*/state"))
    return [f"{state.parts[-4]}/{state.parts[-2]}" for state in states if "ACTIVE" in state.read_text()]


def matrix_product(device: torch.device) -> float:
    """TFLOP/s of a square product, bf16 on a GPU and fp32 on one thread of a CPU; the median of some."""
    size, kind = (8192, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside the node's other ranks
    try:
        return 2 * size**3 / _median_seconds(lambda: left @ right, device, 10) / 1e12
    finally:
        torch.set_num_threads(threads)


def all_reduce(device: torch.device, group: dist.ProcessGroup, ranks: int) -> float:
    """GB/s that each rank moves in the sum of a large vector over `group` (its size times 2 (n-1) / n, as a ring moves it)."""
    values = torch.ones((256 if device.type == "cuda" else 4) << 18, device=device)
    seconds = _median_seconds(lambda: dist.all_reduce(values, group=group), device, 5)
    return values.nbytes * 2 * (ranks - 1) / ranks / seconds / 1e9


def reading(data: Path) -> dict[str, float]:
    """MB/s at which the beginning of the dataset's first large file is read, from wherever it lies, caches included."""
    for path in data.rglob("*"):
        if path.is_file() and path.stat().st_size >= _READ_BYTES:
            started = time.perf_counter()
            with path.open("rb", buffering=0) as file:
                while file.tell() < _READ_BYTES and file.read(1 << 20):
                    pass
            return {"reading the dataset [MB/s]": _READ_BYTES / (time.perf_counter() - started) / 1e6}
    return {}


def _median_seconds(work: Callable[[], Any], device: torch.device, times: int) -> float:
    taken = []
    for _ in range(times + 2):  # two to warm up
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])
