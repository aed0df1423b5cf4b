"""The script for a quarter of an hour on a GPU machine, tried without one: what does not fit is left out, by name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = "train tests v3 loaders v4 resnet planes accuracy"


def gpu_script(out: Path, *blocks: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OUT": str(out), "INCEPTION_PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""} | variables
    command = ["bash", str(ROOT / "benchmarks/gpu.sh"), *blocks]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800, check=False)


def test_what_no_longer_fits_into_the_budget_is_left_out_by_name(tmp_path):
    done = gpu_script(tmp_path / "out", BUDGET="20")
    assert done.returncode == 0, done.stderr
    for block in BLOCKS.split():
        assert f"-- {block} is left out: it takes" in done.stdout
    assert f"left out for want of time (BUDGET=20): {BLOCKS}" in done.stdout
    assert "no GPU here" in done.stdout
    assert "nothing was measured" in done.stdout
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        assert {"out/versions.txt", "out/table.txt"} <= set(tar.getnames())


def test_a_block_leaves_its_results_and_the_table_has_them(tmp_path):
    done = gpu_script(tmp_path / "out", "v3", BUDGET="1500")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "out/table.txt").read_text()
    assert "variants" in table
    assert "network.pad_channels=8" in table
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        names = tar.getnames()
    assert any(name.startswith("out/variants-") and name.endswith(".json") for name in names)
    assert "out/v3.log" in names


@pytest.mark.parametrize(("blocks", "variables", "words"), [
    (["v5"], {}, "there is no block 'v5'; the blocks are"),
    ([], {"BUDGET": "ten"}, "BUDGET is a number of seconds, not 'ten'"),
    (["long", "no_such_stage"], {}, "there is no stage 'no_such_stage'"),
])  # fmt: skip
def test_mistakes_are_one_line(tmp_path, blocks, variables, words):
    done = gpu_script(tmp_path / "out", *blocks, **variables)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_stages_of_the_long_form_are_run_and_those_of_the_docs_are_there():
    script = (ROOT / "benchmarks/measuring/gpu_long.sh").read_text()
    stages = set(re.findall(r"^stage_(\w+)\(\)", script, re.MULTILINE))
    assert stages == set(re.findall(r"^all=\((.*)\)", script, re.MULTILINE)[0].split())
    documented = re.findall(r"gpu\.sh long (\w+)`", (ROOT / "docs/performance.md").read_text())
    assert {"loaders", "planes"} <= set(documented) <= stages


def test_the_tests_that_need_a_gpu_are_all_named():
    """A run of all tests would import what a GPU machine lacks."""
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()}
    script = (ROOT / "benchmarks/gpu.sh").read_text()
    named = {path for path in marked if str(path.relative_to(ROOT)) in script}
    lacking = {ROOT / "tests/pipelines/loading/test_dali.py", Path(__file__)}  # the first is about what may be missing
    assert marked - named <= lacking


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("nvidia.dali", "ffcv", "deepspeed", "pytorchcv", "webdataset", "shtab", "xdist.s")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def test_what_a_gpu_run_needs_does_without_optional_packages(tmp_path):
    """Its scripts can be imported, and its tests collected, where DALI, FFCV, DeepSpeed, the peers' packages and what
    several workers need are missing."""
    (tmp_path / "blocker.py").write_text(BLOCKER)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    scripts = "import blocker, benchmarks.throughput, benchmarks.studies.variants, benchmarks.report, engine.train"
    script = (ROOT / "benchmarks/gpu.sh").read_text()
    tests = [word for word in script.split() if word.startswith("tests/") and word.endswith(".py")]
    assert len(tests) > 5
    collecting = ["-n0", "-q", "-p", "blocker", "--collect-only", "-m", "gpu", *tests]
    code = f"{scripts}, pytest; raise SystemExit(pytest.main({collecting}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests collected" in done.stdout
