"""What this process computes on."""

import os

import torch

from engine.config.options import ConfigError
from engine.distributed.gpu_request import gpus_asked_for
from launch.environment import Environment
from pipelines.support.cores import usable_cores

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *DTYPES)


def choose_device(environment: Environment, wanted: str = "auto") -> torch.device:
    """This rank's GPU, or the CPU where that is `wanted` or no GPU was asked for. Sets the process up for it.

    `wanted` is auto, cpu or cuda. A GPU is that of the local rank, or the only one the process sees where the launcher shows
    each rank its own (`srun --gpus-per-task=1`). Raises ConfigError when the machine has GPUs, but fewer than ranks; and
    when a GPU was asked for, by "cuda" or by anything that `gpus_asked_for` knows, and torch can use none.
    """
    if wanted != "cpu" and torch.cuda.is_available():
        if shows_each_its_own(environment, torch.cuda.device_count()):
            return _use_gpu(0)
        if environment.local_world_size > torch.cuda.device_count():
            raise ConfigError(
                f"{environment.local_world_size} processes on a machine with {torch.cuda.device_count()} GPUs: "
                "start one process a GPU (--nproc_per_node)"
            )
        return _use_gpu(environment.local_rank)
    asked = {"cpu": None, "cuda": "--device cuda"}.get(wanted, gpus_asked_for())
    if asked is not None:
        raise ConfigError(
            f"{asked} asks for a GPU, and torch {torch.__version__} can use none ({_why_no_gpu()}): mend that, or compute on "
            "the CPU with --device cpu"
        )
    # torchrun sets one thread a process unless told otherwise. Ranks divide their cores when they have met (cores.py).
    torch.set_num_threads(usable_cores())
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


def _why_no_gpu() -> str:
    if torch.version.cuda is None:
        return "it was built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "CUDA starts, and shows no device"


def idle_gpus(environment: Environment, device: torch.device) -> str | None:
    """A line about GPUs of this machine that no process of the run uses; None when there are none."""
    count, used = (torch.cuda.device_count() if device.type == "cuda" else 0), environment.local_world_size
    if count <= used:
        return None
    return (
        f"{count - used} of the {count} GPUs of this machine stand idle: torchrun --nproc_per_node={count} engine/train.py ... "
        "uses them all"
    )


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What the forward and backward pass compute in: as told, or ("auto") bf16 where the device has units for it."""
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":  # older GPUs only emulate it, slower than fp32
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def make_deterministic() -> None:
    """Only deterministic kernels from here on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
