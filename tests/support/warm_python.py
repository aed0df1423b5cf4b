"""A Python for launchers and batch jobs, whose programs of this repository need not import torch: they are forks of a process
that did.

The process that a launcher starts stands for the fork (warm_client.py): it is the launcher's child, has the environment and the
command line, hands signals on, and ends as the fork does; where it is killed, so are the fork and what the fork has started.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import multiprocessing
import os
import selectors
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

import forking
from waiting import wait_until

ROOT, SUPPORT = Path(__file__).resolve().parents[2], Path(__file__).resolve().parent
# What the launchers give their programs and Python or torch would read at their start: followed by hand, or read late.
FOLLOWED = ["OMP_NUM_THREADS", "PYTHONFAULTHANDLER", "PYTHONUNBUFFERED", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"]
FOLLOWED.append("LD_LIBRARY_PATH")  # mpirun's, for libraries of its own
if not Path("/dev/nvidiactl").exists():  # there are no GPUs to choose from
    FOLLOWED.append("CUDA_VISIBLE_DEVICES")


class WarmPython:
    """`executable` behaves as this environment's Python, and is its forks' `sys.executable`, until `close`."""

    def __init__(self, forks: forking.Forks, environment: Mapping[str, str]) -> None:
        # The path of a socket has a limit, and that of a script's interpreter no spaces.
        self.folder = Path(tempfile.mkdtemp(prefix="warm-", dir="/tmp"))
        self.executable = self.folder / "bin" / "python"
        own = Path(sys.executable)
        self.executable.parent.mkdir()
        for program in own.parent.iterdir():  # a launcher looks for others beside its Python
            if program.name != self.executable.name:
                (self.executable.parent / program.name).symlink_to(program)
        self.executable.write_text(f"#!{self.folder}/python -IS\n{(SUPPORT / 'warm_client.py').read_text()}")
        self.executable.chmod(0o755)
        # Started under another name, Python finds its packages beside that.
        if (Path(sys.prefix) / "pyvenv.cfg").exists():  # a virtual environment, whose packages these are
            shutil.copy(Path(sys.prefix) / "pyvenv.cfg", self.folder)
        (self.folder / "lib").symlink_to(Path(sys.prefix) / "lib")
        (self.folder / "python").symlink_to(own)
        (self.folder / "repository").symlink_to(ROOT)
        (self.folder / "output").touch()
        command = [sys.executable, __file__, str(self.folder)]
        self._server = forks.start(command, ROOT, environment, self.folder / "output", self.folder / "output")
        wait_until((self.folder / "server").exists, (self.folder / "output").read_text)

    def close(self) -> None:
        """Ends the server, and the programs that still run."""
        os.kill(self._server.pid, signal.SIGTERM)
        self._server.wait()
        shutil.rmtree(self.folder)


def fork_of(pid: int) -> int:
    """The process that `pid` stands for: itself, unless it is a program's that was forked."""
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    return int(name.removeprefix("fork:")) if name.startswith("fork:") else pid


def serve(folder: Path) -> None:
    """Forks programs as they are asked for, and tells each one's number and status, until SIGTERM."""
    sys.executable = str(folder / "bin" / "python")
    begun = _at_start(os.environ)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    selector, running = selectors.DefaultSelector(), {}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "new"))
        listening.listen(64)
        (folder / "new").rename(folder / "server")
        selector.register(listening, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in selector.select():
                    if key.fileobj is listening:
                        client, _ = listening.accept()
                        process = _begin(client, begun)
                        if process is not None:
                            running[client] = process
                            selector.register(client, selectors.EVENT_READ, client)
                            selector.register(process.sentinel, selectors.EVENT_READ, client)
                    elif key.data in running:  # it has ended, or who stands for it
                        process = running.pop(key.data)
                        selector.unregister(key.data)
                        selector.unregister(process.sentinel)
                        _end(process, key.data)
        finally:
            for client, process in running.items():
                _end(process, client)


def _begin(client: socket.socket, begun: Mapping[str, str]) -> Any:
    """Forks the program that `client` asks for, unless a fork would be another."""
    _, outputs, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile() as words:
        asked = words.readline()
    told = json.loads(asked) if asked.endswith("\n") else None  # it may have been killed
    try:
        if told is None or _at_start(told["environment"]) != begun:
            with contextlib.suppress(OSError):
                client.sendall(b"0\n")
            client.close()
            return None
        context: Any = multiprocessing.get_context("fork")
        process = context.Process(target=_become, args=(told, outputs))
        process.start()
        with contextlib.suppress(OSError):
            client.sendall(f"{process.pid}\n".encode())
        return process
    finally:
        for output in outputs:
            os.close(output)


def _end(process: Any, client: socket.socket) -> None:
    """Tells its status, once it has ended; with its client gone it must."""
    if process.is_alive():
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
    process.join()
    with contextlib.suppress(OSError):
        client.sendall(f"{process.exitcode}\n".encode())
    client.close()


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in forking._at_start(environment).items() if name not in FOLLOWED}


def _become(told: dict[str, Any], outputs: list[int]) -> None:
    """In the fork: is the program."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) or number in told["ignored"]:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if number in told["ignored"] else usual)
    for descriptor, given in enumerate(outputs):
        os.dup2(given, descriptor)
    for opened in [int(link.name) for link in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # the folder's own
            if opened > 2 and (opened in outputs or stat.S_ISSOCK(os.fstat(opened).st_mode)):
                os.close(opened)
    environment = told["environment"]
    unbuffered = "PYTHONUNBUFFERED" in environment
    sys.stdout = _text(1, "strict", unbuffered, os.isatty(1))
    sys.stderr = _text(2, "backslashreplace", unbuffered, True)
    if "PYTHONFAULTHANDLER" in environment:
        faulthandler.enable()
    os.sched_setaffinity(0, told["cores"])
    if threads := environment.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))
    forking._run(told["command"], told["cwd"], environment)


def _text(descriptor: int, errors: str, unbuffered: bool, by_line: bool) -> io.TextIOWrapper:
    """An output as Python opens it: the server's were a file, where a launcher's may be a pipe or a terminal."""
    raw = io.FileIO(descriptor, "w", closefd=False)
    buffer: Any = raw if unbuffered else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, "utf-8", errors, line_buffering=by_line, write_through=unbuffered)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
