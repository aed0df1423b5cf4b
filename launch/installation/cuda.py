"""The CUDA that the driver and torch are of, by which DALI's build is chosen."""

import re
import shutil
import subprocess


def driver_version() -> int | None:
    """The newest major version of CUDA that the GPU driver runs; None without a driver that answers."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        said = subprocess.run([tool], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return None
    match = re.search(r"CUDA[\w ]* Version:\s*(\d+)", said.stdout) if said.returncode == 0 else None
    return int(match[1]) if match else None


def torch_version(python: str) -> int | None:
    """The major version of CUDA that an interpreter's torch was built for; None for a build without it."""
    program = "import torch; print((torch.version.cuda or '').partition('.')[0])"
    said = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False).stdout.strip()
    return int(said) if said.isdigit() else None


def dali_extra(driver: int | None, torch: int | None) -> str:
    """The extra with the build of DALI to install. That for CUDA 12 brings its libraries and runs on drivers of 12 and
    13, whatever torch was built for; that for CUDA 13 needs a driver of 13 and shares torch's libraries."""
    return "dali-cuda13" if (driver or 0) >= 13 and (torch or 0) >= 13 else "dali"
