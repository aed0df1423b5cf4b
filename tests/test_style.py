"""The tools that read the code: ruff finds nothing, its formatter changes nothing, mypy agrees; and the house's rules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("inception", "pipelines", "engine", "launch", "slurm", "benchmarks")
# Each optional dependency and the modules that may import it.
HOMES = {
    "nvidia": r"pipelines/loading/(dali|nvjpeg)\w*|benchmarks/(\w+/)?\w+",
    "torchcodec": r"pipelines/decoding/whole_jpeg",
    "ffcv": r"pipelines/(loading/ffcv|preparing/beton)\w*|benchmarks/(\w+/)?\w+",
    "deepspeed": r"engine/distributed/deepspeed",
    "triton": r"inception/speed/(norm_kernels|max_pool)|pipelines/decoding/resize_kernel|benchmarks/(\w+/)?\w+",
    "onnx": r"engine/(inference/exported_files|export)",
    "onnxruntime": r"engine/(inference/)?\w+",
}


@pytest.mark.parametrize("arguments", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join)
def test_tools_find_nothing(arguments):
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_nothing_is_younger_than_the_first_python_3_11():
    """Unpacking takes `filter` since 3.11.4; Debian 12 has 3.11.2."""
    younger = re.compile(r"\b(extract|extractall|unpack_archive)\(.*\bfilter=")
    files = [path for room in (*ROOMS, "tests") for end in ("py", "sh") for path in (ROOT / room).rglob(f"*.{end}")]
    assert [str(path.relative_to(ROOT)) for path in files if younger.search(path.read_text())] == []


def modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_optional_dependencies_are_imported_at_home():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        for name in HOMES.keys() & imported(path)
        if not re.fullmatch(HOMES[name], str(path.relative_to(ROOT).with_suffix("")))
    ]
    assert wrong == []
