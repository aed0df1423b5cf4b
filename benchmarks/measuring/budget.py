"""Seconds that a script may take: what still fits is done, and what does not is named."""

import time
from collections.abc import Callable
from typing import Self, TypeVar

T = TypeVar("T")
_USED = 0.95  # the rest is for what comes last: tables, pictures, files


class Budget:
    """Counts from its making. `planned` are seconds that what was admitted will take; `left_out` names what did not fit."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._clock, self._end = clock, clock() + _USED * seconds
        self._longest = 0.0
        self.planned = 0.0
        self.left_out: list[str] = []

    def notes(self) -> list[str]:
        """A line about what did not fit; none where all did."""
        left_out = ", ".join(dict.fromkeys(self.left_out))
        return [f"Left out to keep the budget (--budget, in seconds): {left_out}."] if left_out else []

    def share(self, parts: int) -> Self:
        """One of so many equal parts of what remains; what it leaves out is named here."""
        share = type(self)(self.remaining() / parts / _USED, self._clock)
        share.left_out = self.left_out
        return share

    def remaining(self) -> float:
        """Seconds until the end, those that are planned included."""
        return self._end - self._clock()

    def admits(self, what: str, seconds: float, must: bool = False) -> bool:
        """Whether `seconds` more fit beside what is planned, or `must`. They are planned then; else `what` is left out."""
        if not must and self.planned + seconds > self.remaining():
            self.left_out.append(what)
            return False
        self.planned += seconds
        return True

    def prepared(self, what: str, prepare: Callable[[], T]) -> T | None:
        """What `prepare` makes; None where it might not fit: it is thought to take as long as the longest before it."""
        if self.planned + self._longest >= self.remaining():
            self.left_out.append(what)
            return None
        started = self._clock()
        try:
            return prepare()
        finally:
            self._longest = max(self._longest, self._clock() - started)
