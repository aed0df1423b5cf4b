"""Makes or completes the environment of a clone: ``python -m launch.installation [--all] [--cpu] [--torch 2.11]``, under
the Python that it is to be built on. launch/setup.sh finds that Python and is what people call."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from launch.installation import cuda, environment, system
from launch.installation.constraints import pins, without_torch
from launch.installation.environment import Environment
from launch.installation.installer import CPU_INDEX, Installer
from launch.installation.stages import Stages

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "launch" / "constraints.txt"
# DALI's and FFCV's are chosen and built apart.
EXTRAS = ("deepspeed", "mpi", "export", "openvino", "parquet", "wandb", "mlflow", "trackio", "dev")


class SetUpError(Exception):
    """Something that the user can put right; the message is one line."""


def main() -> int:
    options = _options()
    venv = Path(os.environ["INCEPTION_VENV"])
    try:
        return set_up(options, venv)
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def set_up(options: argparse.Namespace, venv: Path) -> int:
    """Does what is missing of the environment `venv`; the exit status. Raises SetUpError."""
    _check_writable(venv)
    with environment.locked(venv):
        wanted = Environment(ROOT, venv).choosing(options.torch, options.cpu)
        if wanted.is_foreign():
            raise SetUpError(f"{venv} holds something else than an environment: name another folder in INCEPTION_VENV")
        complete = system.ffcv_can_build()
        scope = ("all with FFCV" if complete else "all") if options.all else "training"
        # Without FFCV there is something left to do only for one who may install what it needs.
        if wanted.holds(scope) and (complete or not options.all or not system.may_install()):
            print(f"set-up: {venv} is up to date")
            return 0
        stages = Stages(venv / "setup.log", venv)
        print(f"set-up: Python {platform.python_version()}, into {venv} (details in setup.log there)", flush=True)
        if options.all or not system.can_compile():
            _install_system_packages(stages, options.all)
        installer = _environment(wanted, stages)
        left_out = _packages(installer, options, stages)
        print(f"  {'together, with ' + installer.name():<44} {stages.total()}\n", flush=True)
        check = subprocess.run([installer.python, "-m", "launch.installation.components"], cwd=ROOT, check=False)
        if options.json:
            _record(options.json, stages, installer, left_out, check.returncode == 0)
        if check.returncode != 0:
            print(f"error: the environment is incomplete; see {stages.log}", file=sys.stderr)
            return 1
        if not left_out:
            wanted.record("all with FFCV" if options.all and system.ffcv_can_build() else scope)
        return 0


def _environment(wanted: Environment, stages: Stages) -> Installer:
    """The virtual environment with what training needs in it: made anew unless the one there is of the same kind."""
    installer = Installer(ROOT, wanted.venv, wanted.venv / "constraints.txt")
    if not wanted.is_there():
        wanted.clear()
        if not stages.run("virtual environment", installer.make()):
            raise SystemExit(1)
    installer.constraints.write_text(without_torch(CONSTRAINTS) if wanted.torch else CONSTRAINTS.read_text())
    if wanted.torch:
        exact = wanted.torch if wanted.torch.count(".") == 2 else f"{wanted.torch}.*"
        installer.requirements = [f"torch=={exact}"]
    if wanted.cpu:
        _choose_cpu_build(installer)
    elif cuda.driver_version() is None:
        print("  (no GPU driver here: --cpu would install torch without CUDA, a tenth of the size)", flush=True)
    if not installer.package(stages, "packages to train with (torch is the most)"):
        raise SystemExit(1)
    wanted.record("training")
    return installer


def _choose_cpu_build(installer: Installer) -> None:
    """Has torch's build without CUDA installed with the torchvision that belongs to it, if both can be had."""
    pair = [f"{name}=={version}+cpu" for name, version in pins(CONSTRAINTS) if name in ("torch", "torchvision")]
    for indexes in ([], [CPU_INDEX]):
        if installer.has(pair, indexes):
            installer.requirements, installer.indexes = pair, indexes
            return
    print(
        f"  (no index here has {' and '.join(pair)}: the build with CUDA is installed; it runs on CPUs, too)",
        flush=True,
    )


def _packages(installer: Installer, options: argparse.Namespace, stages: Stages) -> list[str]:
    """Installs the extras, for --all; returns those that cannot be had here."""
    if not options.all:
        return []
    driver = cuda.driver_version()
    dali = cuda.dali_extra(driver, cuda.torch_version(installer.python))
    if dali == "dali-cuda13":
        print("  (driver and torch are of CUDA 13: DALI in its build for it)", flush=True)
    extras = [dali, *EXTRAS]
    left_out = []
    if not installer.package(stages, "other loaders, strategies, formats; tools", extras, quiet=True):
        # One package without a wheel for this Python or processor fails all: each extra alone then.
        left_out = [extra for extra in extras if not installer.package(stages, f"extra {extra}", [extra], quiet=True)]
    if system.ffcv_can_build() and not installer.package(stages, "FFCV, built from source", ["ffcv"]):
        left_out.append("ffcv")
    return left_out


def _install_system_packages(stages: Stages, everything: bool) -> None:
    """Installs what is missing where it may; elsewhere one line says what to ask for, and what goes on without it."""
    missing = system.missing_packages(everything)
    if not missing:
        return
    names = " ".join(missing)
    if system.may_install() and stages.run(
        "the distribution's packages", [*system.COMMAND, "install_packages", *missing]
    ):
        return
    without = []
    if not system.can_compile():
        without.append("torch.compile and the compiled decoder, whose place torchvision's takes")
    if everything:
        without.append("FFCV")
    print(f"set-up: goes on without {', and without '.join(without)}; for them install: {names}", flush=True)


def _check_writable(venv: Path) -> None:
    """Raises SetUpError where the environment cannot be written."""
    try:
        venv.mkdir(parents=True, exist_ok=True)
        writable = os.access(venv, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise SetUpError(f"{venv} cannot be written: name a folder that can in INCEPTION_VENV")


def _record(file: str, stages: Stages, installer: Installer, left_out: list[str], works: bool) -> None:
    total = stages.total()
    kept = {
        "command": shlex.join(["bash", "launch/setup.sh", *sys.argv[1:]]),
        "python": platform.python_version(),
        "system": system.name(),
        "installer": installer.name(),
        "stages": stages.done,
        "seconds": total.seconds,
        "received": total.received,
        "disk": total.disk,
        "left_out": left_out,
        "works": works,
    }
    Path(file).write_text(json.dumps(kept, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="launch/setup.sh", description="Makes a fresh clone ready.", allow_abbrev=False
    )
    parser.add_argument("--all", action="store_true", help="with every extra and the tools of development")
    parser.add_argument("--cpu", action="store_true", help="torch's build without CUDA, where an index has it")
    parser.add_argument("--torch", metavar="VERSION", help="another torch than that of the constraints")
    parser.add_argument("--python", metavar="VERSION|PATH", help="another Python than the first one found")
    parser.add_argument("--json", metavar="FILE", help="where to record what the stages cost")
    options = parser.parse_args()
    if options.torch:
        bound = environment.least_torch(ROOT / "setup.py")
        if not environment.is_version(options.torch) or environment.order(options.torch) < environment.order(bound):
            parser.error(f"--torch {options.torch} is not a version from {bound} upward")
        if options.cpu:
            parser.error(
                "--torch and --cpu exclude each other: only the torch of the constraints has a CPU build looked for"
            )
    return options


if __name__ == "__main__":
    sys.exit(main())
