"""Python programs as processes that need not import torch and its compiler: forked from one that has, by multiprocessing.

A training of a second is preceded by six of imports, which every process of a test would repeat. A forked program is a
process of its own like any other: number, session, arguments, environment, working directory, cores, output, signals, exit
status. Only what is read while Python starts and libraries load is its parent's; `Forks.suit` says where that could differ.
The ranks that a forked torchrun starts, and starts again when they are killed, are forks of it in their turn.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
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
LATER = ("PYTHONPATH", "TORCHELASTIC_", "TORCH_NCCL_")  # which is followed by hand, or read by whom it concerns


class ForkedProgram:
    """A running program; as subprocess.Popen: pid, poll, wait, returncode."""

    def __init__(self, *told: object, begin: Any = None, method: str = "forkserver") -> None:
        context: Any = multiprocessing.get_context(method)
        self._process = context.Process(target=begin or _become, args=told)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
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
    os.sched_setaffinity(0, cores)
    for descriptor, path in enumerate((os.devnull, stdout, stderr)):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    _run(command, cwd, environment)


def _start_rank(handler: Any, arguments: Sequence[str], environment: dict[str, str]) -> Any:
    """What torchrun's SubprocessHandler starts: arguments are Python, -u, a file and the file's own."""
    if arguments[:2] != (sys.executable, "-u") or _at_start(environment) != _at_start(os.environ):
        raise AssertionError("a rank that would be another program than its agent's fork")
    outputs = [opened and opened.fileno() for opened in (handler._stdout, handler._stderr)]
    return ForkedProgram(list(arguments[2:]), environment, outputs, begin=_become_rank, method="fork")


def _become_rank(command: list[str], environment: dict[str, str], outputs: list[int | None]) -> None:
    """In the fork of an agent, of whose connections and handlers a new program would have none: is the rank."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for descriptor, given in enumerate(outputs, start=1):
        if given is not None:
            os.dup2(given, descriptor)
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # the folder's own
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.close(descriptor)
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    _run(command, str(Path.cwd()), environment)


_own_path: list[str] = []  # what this program, or the one that it is a fork of, has before what all have


def _run(command: list[str], cwd: str, environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    module = command[0] == "-m"
    sys.path[:] = [path for path in sys.path if path not in (str(ROOT), str(Path(__file__).parent), *_own_path)]
    given = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    _own_path[:] = [cwd if module else str(Path(command[0]).parent), *given]
    sys.path[:0] = _own_path
    sys.argv[:] = command[1:] if module else command
    if command[:2] == ["-m", "torch.distributed.run"]:
        from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

        SubprocessHandler._popen = _start_rank  # type: ignore[method-assign]
    if module:
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(command[0], run_name="__main__")
