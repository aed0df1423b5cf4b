"""The parts of the set-up: where packages come from, which build of DALI, which names a distribution has for what is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from launch.installation import cuda, system
from launch.installation.components import COMPONENTS, Component, check
from launch.installation.constraints import SOURCES, compiled_names, pins, without_torch
from launch.installation.indexes import pip_settings, uv_options, uv_variables
from launch.installation.stages import Stages, in_units

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "launch" / "constraints.txt"


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_pips_settings_reach_uv(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = https://one.invalid/simple\nfind-links = /wheels /more\n"
        "[install]\nextra-index-url = https://two.invalid/simple\n[list]\nno-index = true\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    monkeypatch.setenv("PIP_FIND_LINKS", "/mine")
    monkeypatch.setenv("PIP_PROXY", "http://gate.invalid:3128")
    pip = pip_settings(sys.executable)
    options = uv_options(pip, {})
    pairs = list(zip(options[::2], options[1::2], strict=True))
    assert ("--default-index", "https://one.invalid/simple") in pairs
    assert ("--index", "https://two.invalid/simple") in pairs
    assert [value for option, value in pairs if option == "--find-links"] == ["/mine"]
    assert "--no-index" not in options
    assert uv_variables(pip, {})["HTTPS_PROXY"] == "http://gate.invalid:3128"
    assert "--no-index" in uv_options(pip | {"no-index": "1"}, {})
    # What is said to uv itself goes before.
    assert "--default-index" not in uv_options(pip, {"UV_DEFAULT_INDEX": "https://three.invalid/simple"})
    assert "HTTPS_PROXY" not in uv_variables(pip, {"HTTPS_PROXY": "http://other.invalid"})


@pytest.mark.parametrize(
    ("driver", "torch", "extra"),
    [
        (None, 13, "dali"),
        (12, 12, "dali"),
        (12, 13, "dali"),
        (13, 12, "dali"),
        (13, 13, "dali-cuda13"),
        (13, None, "dali"),
    ],
)
def test_dalis_build_follows_driver_and_torch(driver, torch, extra):
    assert cuda.dali_extra(driver, torch) == extra


def test_the_drivers_cuda_is_read_from_its_tool(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path, "nvidia-smi", "echo '| NVIDIA-SMI 580.65  Driver Version: 580.65  CUDA Version: 13.0     |'")
    assert cuda.driver_version() == 13
    program(tmp_path, "nvidia-smi", "echo '| NVIDIA-SMI 535.1   Driver Version: 535.1   CUDA Version: 12.2     |'")
    assert cuda.driver_version() == 12
    program(tmp_path, "nvidia-smi", "echo NVIDIA-SMI has failed; exit 9")
    assert cuda.driver_version() is None


def test_another_torch_brings_its_own_versions_and_keeps_the_rest():
    kept = without_torch(CONSTRAINTS)
    for name in (
        "torch",
        "torchvision",
        "triton",
        "nvidia-cudnn-cu13",
        "cuda-toolkit",
        "nvidia-nccl-cu13",
        "setuptools",
    ):
        assert f"\n{name}==" in CONSTRAINTS.read_text()
        assert not any(line.startswith(f"{name}==") for line in kept.splitlines())
    assert "numpy<2.4" in kept.splitlines()
    for name in ("scipy", "torchmetrics", "nvidia-dali-cuda120", "nvidia-nvimgcodec-cu12", "nvidia-ml-py"):
        assert any(line.startswith(f"{name}==") for line in kept.splitlines())


def test_what_is_compiled_is_taken_as_wheels_only():
    names = compiled_names(CONSTRAINTS)
    assert {"torch", "numpy", "scipy", "onnxruntime", "opencv-python"} <= set(names)
    assert not SOURCES & set(names)
    assert {name for name, _ in pins(CONSTRAINTS)} >= SOURCES


@pytest.mark.parametrize(
    ("manager", "compiler", "opencv"), [("apt-get", "g++", "libopencv-dev"), ("dnf", "gcc-c++", "opencv-devel")]
)
def test_missing_packages_have_the_names_of_the_distribution(manager, compiler, opencv, tmp_path, monkeypatch):
    for name in ("bash", "id", "dirname"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    program(tmp_path, manager, "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler in system.missing_packages(everything=False)
    assert opencv not in system.missing_packages(everything=False)
    assert opencv in system.missing_packages(everything=True)
    assert not system.can_compile()
    assert not system.ffcv_can_build()


def test_packages_are_installed_through_the_proxy_also_by_sudo(tmp_path, monkeypatch):
    for name in ("bash", "env", "true"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    log = tmp_path / "log"
    program(tmp_path, "id", "echo 1000")
    # As sudo does it: nothing of the caller's environment stays.
    program(tmp_path, "sudo", f'shift; exec env -i PATH="{tmp_path}" "$@"')
    program(tmp_path, "apt-get", f'echo "$https_proxy: $*" >>"{log}"')
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://gate.invalid:3128")
    assert system.may_install()
    stages = Stages(tmp_path / "setup.log", tmp_path)
    assert stages.run("packages", [*system.COMMAND, "install_packages", "g++"])
    lines = log.read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["update", "g++"]
    assert all(line.startswith("http://gate.invalid:3128: ") for line in lines)


def test_lists_that_another_apt_get_reads_are_waited_for(tmp_path, monkeypatch):
    """Its own limit of seconds is for the lock over packages alone."""
    program(tmp_path, "sleep", f'touch "{tmp_path}/free"')
    locked = "echo E: Could not get lock /var/lib/apt/lists/lock. >&2; exit 100"
    program(tmp_path, "apt-get", f'echo "$*" >>"{tmp_path}/log"; [ -e "{tmp_path}/free" ] || {{ {locked}; }}')
    program(tmp_path, "id", "echo 0")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert Stages(tmp_path / "setup.log", tmp_path).run("packages", [*system.COMMAND, "install_packages", "g++"])
    assert [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["update", "update", "g++"]


def test_without_root_and_sudo_nothing_may_be_installed(tmp_path, monkeypatch):
    (tmp_path / "bash").symlink_to("/usr/bin/bash")
    program(tmp_path, "id", "echo 1000")
    program(tmp_path, "apt-get", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not system.may_install()


def test_a_stage_counts_the_disk_it_took_and_shows_how_it_failed(tmp_path, capsys):
    stages = Stages(tmp_path / "log", tmp_path)
    assert stages.run("a file", ["sh", "-c", f"head -c 3000000 /dev/urandom > {tmp_path}/file"])
    assert stages.done[0]["disk"] >= 3_000_000
    assert not stages.run("a failure", ["sh", "-c", "echo what happened; exit 3"])
    assert not stages.run("another", ["sh", "-c", "echo ERROR: no wheel; echo; exit 3"], quiet=True)
    conflict = "ERROR: Cannot install\n\nThe conflict is caused by:\n  a needs b\n  you have c\n\nERROR: for help visit"
    assert not stages.run("one more", ["sh", "-c", f"printf '{conflict}'; exit 1"], quiet=True)
    printed = capsys.readouterr().out.splitlines()
    assert "3 MB on disk" in printed[0]
    assert printed[2].endswith("| what happened")
    assert printed[3].endswith("cannot be had: no wheel")
    assert printed[4].endswith("cannot be had: a needs b; you have c")
    assert [row["well"] for row in stages.done] == [True, False, False, False]


def test_sizes_read_as_people_say_them():
    assert [in_units(count) for count in (0, 41_200_000, 3_140_000_000)] == ["0 MB", "41 MB", "3.1 GB"]


def test_a_component_that_is_not_installed_is_no_failure_and_a_broken_one_says_why():
    absent = check(Component("Absent", "raise SystemExit(1)", "nvidia.no_such_module", "dali"))
    assert (absent.works, absent.word) == (False, "not here")
    assert "--all" in absent.remark
    broken = check(Component("Broken", "raise ValueError('no such luck')", "json", "dali"))
    assert (broken.works, broken.word) == (False, "BROKEN")
    assert "no such luck" in broken.remark
    assert all(component.installed() for component in COMPONENTS if not component.extra)


def test_a_library_that_waits_for_ever_at_the_end_has_worked():
    probe = "import threading, time\nthreading.Thread(target=time.sleep, args=(10_000,)).start()\nprint('1.0|did it')"
    assert check(Component("Slow to go", probe, "json")).works
