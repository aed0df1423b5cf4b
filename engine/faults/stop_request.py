"""Being asked to stop: signals set a flag, and the training loop obeys it at the next step's end."""

import os
import signal
import time
from types import FrameType

from pipelines.support.entry_point import discard_hung_up

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# A batch system's notice, which may come by several ways, and a terminal's end, of which shell and system tell: they never
# mean impatience.
_PATIENT = (signal.SIGUSR1, signal.SIGHUP)
# torchrun passes on what the terminal already sent to every process, so two signals in quick succession are one wish.
_SAME_WISH_SECONDS = 2.0


class Stopped(Exception):
    """Some rank was asked to stop while the ranks were at something that is begun again later, such as an evaluation."""


class StopRequest:
    """Whether this process was asked to stop. A second SIGTERM or SIGINT, later than an echo of the first, ends it
    at once.

    Before `begin`, when there is nothing to save yet, the first request ends it, with status `status`. The end of the terminal
    (SIGHUP) is a request too, unless `nohup` has it ignored.
    """

    def __init__(self, status: int) -> None:
        self.requested = False
        self._begun, self._status = False, status
        self._first = 0.0
        signals = [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in signals}

    def begin(self) -> None:
        """From here on a request waits for the training loop."""
        self._begun = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGHUP:
            discard_hung_up()
        if not self._begun:
            os._exit(self._status)
        if self.requested and number not in _PATIENT and now - self._first > _SAME_WISH_SECONDS:
            os._exit(128 + number)
        if not self.requested:
            self.requested, self._first = True, now

    def close(self) -> None:
        """Gives the signals back to whoever had them; after a request they are ignored, since the process is leaving and
        the launcher, seeing the first of the ranks leave, tells the others to."""
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if self.requested else handler)
