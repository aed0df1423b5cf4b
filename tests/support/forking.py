"""Python programs as processes that need not import torch and its compiler: forked from one that has, by multiprocessing.

A training of a second is preceded by six of imports, which every process of a test would repeat. A forked program is a
process of its own like any other: number, session, arguments, environment, working directory, cores, output, signals, exit
status. Only what is read while Python starts and libraries load is its parent's; `Forks.suit` says where that could differ.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
# What trainings import, early or late.
IMPORTED = [
    "torch._dynamo",
    "torch.distributed.run",
    "torch.fx.experimental.symbolic_shapes",
    "engine.train",
    "engine.evaluate",
    "engine.predict",
    "engine.export",
    "engine.monitoring.report",
    "pipelines.loading.native",
]
# Variables that are read at the start of Python or by libraries as they are loaded.
AT_START = (
    "PYTHON", "LD_", "OMP_", "MKL_", "KMP_", "GOMP_", "NUMBA_", "TORCH", "ATEN_", "DNNL_", "TRITON", "CUDA", "LC_", "LANG",
)  # fmt: skip
LATER = ("PYTHONPATH", "TORCHELASTIC_")  # which is followed by hand, or read by whom it concerns


class ForkedProgram:
    """A running program; as subprocess.Popen: pid, poll, wait, returncode."""

    def __init__(self, *told: object) -> None:
        self._process = multiprocessing.get_context("forkserver").Process(target=_become, args=told)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int | None:
        self._process.join()
        return self.returncode


class Forks:
    """Programs that begin with `environment`, or one that differs in what is read later."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment, self._begun = dict(environment), False

    def suit(self, command: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether `command`, [Python, a file or -m and a module, arguments...], would run as it does by itself."""
        same = _at_start(environment) == _at_start(self._environment)
        return same and command[0] == sys.executable and command[1] != "-c"

    def start(
        self, command: Sequence[str], cwd: Path, environment: Mapping[str, str], stdout: Path, stderr: Path
    ) -> ForkedProgram:
        """Starts it, its output in these files."""
        if not self._begun:
            multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
            with mock.patch.dict(os.environ, self._environment | {"PYTHONPATH": str(ROOT)}, clear=True):
                forkserver.ensure_running()
            self._begun = True
        cores = os.sched_getaffinity(0)
        return ForkedProgram(list(command[1:]), str(cwd), dict(environment), cores, str(stdout), str(stderr))


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if name.startswith(AT_START) and not name.startswith(LATER)
    }


def _become(
    command: list[str], cwd: str, environment: dict[str, str], cores: set[int], stdout: str, stderr: str
) -> None:
    """In the forked process: is the program."""
    os.setsid()
    os.chdir(cwd)
    os.sched_setaffinity(0, cores)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate((os.devnull, stdout, stderr)):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    module = command[0] == "-m"
    ours = (str(ROOT), str(Path(__file__).parent))
    given = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [cwd if module else str(Path(command[0]).parent), *given, *(p for p in sys.path if p not in ours)]
    sys.argv[:] = command[1:] if module else command
    if module:
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(command[0], run_name="__main__")
