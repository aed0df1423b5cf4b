"""Whether a GPU was asked for: then a run that would quietly compute on the CPU, for days, is refused.

A batch system's allocation, CUDA_VISIBLE_DEVICES and the driver's device files all tell of GPUs that torch may be unable to
use: a build of torch without CUDA, a driver too old for it, a device that was lost.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

_HIDDEN = ("", "-1", "NoDevFiles")  # CUDA_VISIBLE_DEVICES of a process that is to see no GPU; the last is SLURM's
_COUNT = "SLURM_GPUS_ON_NODE"
_LISTS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")


def gpus_asked_for(variables: Mapping[str, str] = os.environ, root: Path = Path("/")) -> str | None:
    """What asks for a GPU in this process, as a person can find it; None when nothing does or all GPUs are hidden.

    `root` is where `dev` is looked for.
    """
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    # DeepSpeed's launcher, which sets CROSS_SIZE, numbers its ranks there, also where there is no GPU.
    if visible is not None and "CROSS_SIZE" not in variables:
        return None if visible.strip() in _HIDDEN else f"CUDA_VISIBLE_DEVICES={visible}"
    if _COUNT in variables:
        return None if variables[_COUNT].strip() in ("", "0") else f"{_COUNT}={variables[_COUNT]}"
    for name in _LISTS:
        if variables.get(name):
            return f"{name}={variables[name]}"
    devices = sorted(file for file in (root / "dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", file.name))
    return f"the device file {devices[0]}" if devices else None
