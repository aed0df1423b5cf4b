"""The versions to keep to, from launch/constraints.txt: all of them, or all but those that another torch brings."""

import re
from collections.abc import Iterator
from pathlib import Path

# torch asks for these in versions of its own.
_TORCHS = re.compile(
    r"torch|torchvision|triton|setuptools|cuda-.*|nvidia-(?!dali|ml-py|libnvcomp|nvimgcodec|nvjpeg|nvtiff).*"
)
# Published as sources: built on the machine that installs them.
SOURCES = frozenset({"assertpy", "deepspeed", "fastargs", "ffcv", "terminaltables"})


def pins(file: Path) -> Iterator[tuple[str, str]]:
    """(name as packaging normalises it, version) of each line NAME==VERSION."""
    for line in file.read_text().splitlines():
        if match := re.match(r"([\w.-]+)==(\S+)", line):
            yield re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]


def without_torch(file: Path) -> str:
    """The file's lines but for torch and what it asks for in versions of its own, and with a numpy that it runs with."""
    kept = [f"{name}=={version}" for name, version in pins(file) if not _TORCHS.fullmatch(name) and name != "numpy"]
    # Triton's interpreter, by which kernels are tested without a GPU, takes arrays of one number for numbers: in torch 2.11
    # (Triton 3.6) in a way that numpy refuses from 2.4 on.
    return "\n".join([*kept, "numpy<2.4"]) + "\n"


def compiled_names(file: Path) -> list[str]:
    """The names that the file pins, but for those that are published as sources only."""
    return sorted({name for name, _ in pins(file)} - SOURCES)
