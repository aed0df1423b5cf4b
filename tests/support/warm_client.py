"""What `warm_python.WarmPython` puts in the place of Python, to be run by a Python without the site's packages (-IS)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

HERE = Path(sys.argv[0]).parents[1]
REPOSITORY, PYTHON = (HERE / "repository").readlink(), (HERE / "python").readlink()
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# Programs that import torch, and what of their folders does not.
HEAVY, LIGHT = ("engine/", "benchmarks/", "tests/", "launch/agent.py", "launch/preflight.py"), ("guard.py",)


def main() -> None:
    """Is the program on the command line, or stands for the fork that is."""
    words = sys.argv[2:] if sys.argv[1:2] == ["-u"] else sys.argv[1:]
    program = Path(words[0] if words else "").resolve()
    heavy = str(program).startswith(tuple(f"{REPOSITORY}/{room}" for room in HEAVY))
    if heavy and program.name not in LIGHT:
        stand_for(words)
    os.execv(PYTHON, [sys.argv[0], *sys.argv[1:]])


def stand_for(words: list[str]) -> None:
    """Has the program forked and ends as it does; returns where a fork would not be the same program."""
    told: list[int] = []
    child = 0

    def hear(number: int, frame: FrameType | None) -> None:
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
        else:
            told.append(number)

    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, hear)
    program = {
        "command": words,
        "cwd": str(Path.cwd()),
        "environment": dict(os.environ),
        "cores": list(os.sched_getaffinity(0)),
        "ignored": [number for number in SIGNALS if number not in heard],
    }
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{HERE}/server")
    socket.send_fds(server, [b"\n"], [0, 1, 2])
    server.sendall(json.dumps(program).encode() + b"\n")
    answers = server.makefile()
    child = int(answers.readline())
    if child:
        Path("/proc/self/comm").write_text(f"fork:{child}")
        while told:
            hear(told.pop(), None)
        status = int(answers.readline())
        if status < 0:
            if -status in SIGNALS:
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)
    for number in heard:
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main()
