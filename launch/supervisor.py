"""Runs a launcher that ends its ranks when it is told to stop, so that they save first: mpirun and DeepSpeed's.

mpirun kills its ranks within a second, and DeepSpeed's launcher ends with status 1 whatever its ranks do. Here the launcher
is not told: the ranks are, by SIGUSR1, which mpirun hands on to those of all nodes. They write a checkpoint and end with 75.
"""

import contextlib
import ctypes
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from types import FrameType

import psutil

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# A signal that comes so soon after the first is an echo of it; a later one is impatience, and ends the ranks.
_SAME_WISH_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1
_OF_DEEPSPEED_S_RANKS = "CROSS_RANK"  # a variable that its launcher sets for them


def supervise(launcher: str, command: Sequence[str]) -> int:
    """Runs `command`, which is `launcher`'s (mpirun, deepspeed), to its end; returns its status, or 128 + its signal."""
    first: float | None = None

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            _tell_ranks(launcher, process)
        elif number not in (signal.SIGUSR1, signal.SIGHUP) and now - first > _SAME_WISH_SECONDS:
            process.terminate()

    # A session of its own: Ctrl-C of a terminal comes to every process of the session in front.
    process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)
    for number in _STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, hear)
    status = process.wait()
    return status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _tell_ranks(launcher: str, process: subprocess.Popen[bytes]) -> None:
    if launcher == "mpirun":
        process.send_signal(signal.SIGUSR1)
        return
    ranks: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):  # it has just ended
        ranks = list(_deepspeed_ranks(psutil.Process(process.pid)))
    for rank in ranks:
        with contextlib.suppress(psutil.Error):  # the same; a number that is another's by now is not signalled
            rank.send_signal(signal.SIGUSR1)
    if not ranks:  # nothing has begun that could be saved
        process.terminate()


def _deepspeed_ranks(launcher: psutil.Process) -> Iterator[psutil.Process]:
    """The uppermost processes below DeepSpeed's launcher that have a rank's variables; below them are compilers and the like."""
    for child in launcher.children():
        try:
            if _OF_DEEPSPEED_S_RANKS in child.environ():
                yield child
            else:
                yield from _deepspeed_ranks(child)
        except psutil.Error:
            continue
