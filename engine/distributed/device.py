"""What this process computes on."""

import os

import torch

from engine.config.options import ConfigError
from launch.environment import Environment
from pipelines.support.cores import usable_cores


def choose_device(environment: Environment) -> torch.device:
    """This rank's GPU, or the CPU on a machine without. Sets the process up for it.

    That is the one of its local rank, or the only one it sees where the launcher shows each rank its own
    (`srun --gpus-per-task=1`). Raises ConfigError when the machine has GPUs, but fewer than ranks.
    """
    if torch.cuda.is_available():
        if shows_each_its_own(environment, torch.cuda.device_count()):
            return _use_gpu(0)
        if environment.local_world_size > torch.cuda.device_count():
            raise ConfigError(
                f"{environment.local_world_size} processes on a machine with {torch.cuda.device_count()} GPUs: "
                "start one process a GPU (--nproc_per_node)"
            )
        return _use_gpu(environment.local_rank)
    # torchrun sets one thread a process unless told otherwise; the ranks of a machine share all its cores.
    torch.set_num_threads(max(1, usable_cores() // environment.local_world_size))
    return torch.device("cpu")


def shows_each_its_own(environment: Environment, gpus: int) -> bool:
    """Whether each of this machine's ranks sees one GPU alone, another one than the others see. torchrun and DeepSpeed start
    all ranks alike; that two ranks of other launchers share one after all is for NCCL to refuse."""
    return gpus == 1 and environment.local_world_size > 1 and environment.launcher in ("slurm", "openmpi", "mpich")


def _use_gpu(index: int) -> torch.device:
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True
    return device


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether the forward and backward pass compute in bf16: as told, or ("auto") where the device has units for it."""
    if precision != "auto":
        return precision == "bf16"
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()


def make_deterministic() -> None:
    """Only deterministic kernels from here on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
