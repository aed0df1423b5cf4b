"""How tests wait: for events, never for time, up to the one limit that every test has (pyproject.toml, `timeout`)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

T = TypeVar("T")
# For the one kind of wait that a test's limit does not end, a thread's; well below that limit, and as generous [s].
IN_A_THREAD = 600.0


@contextlib.contextmanager
def telling(words: Callable[[], str]) -> Iterator[None]:
    """A test that runs into its limit in this block fails with `words()` too: what it waited for, and what it saw."""
    try:
        yield
    except pytest.fail.Exception as limit:
        pytest.fail(f"{limit.msg}\n{words()}")


def wait_until(condition: Callable[[], T], words: Callable[[], str], going_on: Callable[[], bool] = lambda: True) -> T:
    """The first true value of `condition()`. Fails with `words()` at the test's limit, or once `going_on()` is false."""
    with telling(words):
        while not (value := condition()):
            if not going_on():
                # It may have become true just before the end.
                return condition() or pytest.fail("it ended before what was waited for")
            time.sleep(0.02)
        return value


def in_a_thread() -> Callable[[], bool]:
    """`going_on` for a wait that the test's limit cannot end."""
    deadline = time.monotonic() + IN_A_THREAD
    return lambda: time.monotonic() < deadline
