"""The guard of a rank: a small process beside it that ends it when its Python stands still, as in compiled code that keeps
Python's lock, where none of the rank's own threads can.

It counts its own ticks, and none during which the rank was stopped: every clock goes on while a process is suspended, and a
rank that is continued has not hung. `python -I -S guard.py` runs it; the standard library's quick modules are all it may import.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

WATCHED, UNWATCHED = b"w", b"-"
# By default it ends a process, and nobody else uses it.
SIGNAL = signal.SIGRTMIN + 9
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Guard:
    """The rank's end: starts the process, and tells it that Python's threads get their turn.

    Without a sign of life for `patience` seconds, counted every `interval`, the rank gets SIGNAL; `words` are printed then.
    """

    def __init__(self, patience: float, interval: float, words: str):
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(patience), str(interval), words]
        # In a session of its own: Ctrl-C is the rank's to hear.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        assert self._process.stdin is not None
        self._pipe = self._process.stdin.fileno()

    def beat(self, watched: bool) -> None:
        """A sign of life; from here on silence counts if `watched`."""
        with contextlib.suppress(BrokenPipeError):  # killed by somebody: the rank goes on without
            os.write(self._pipe, WATCHED if watched else UNWATCHED)

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()


def main(process: int, patience: float, interval: float, words: str) -> None:
    """The guard's end: returns when the rank has left, or been ended."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    silent, watched = 0, False
    while os.getppid() == process:
        if select.select([0], [], [], interval)[0]:
            beats = os.read(0, 4096)
            if not beats:
                return
            silent, watched = 0, beats.endswith(WATCHED)
        elif watched and not _is_stopped(process):
            silent += 1  # one tick, however long it took: this process may have been suspended too
        if silent * interval >= patience:
            if words:
                print(words, file=sys.stderr, flush=True)
            os.kill(process, SIGNAL)
            return


def _is_stopped(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


if __name__ == "__main__":
    number, seconds, tick, said = sys.argv[1:]
    main(int(number), float(seconds), float(tick), said)
