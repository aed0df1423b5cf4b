"""A benchmark as a page: what it is called and asked, and a function that fills its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measuring import Parser
from benchmarks.reporting.results import Result
from engine.faults.exit_status import DONE, run_entry_point

Asked = Callable[[Any], None]


class Study:
    """The benchmark `name`: `page` is its script's docstring, whose beginning says what it does, `defaults` are those of
    `Parser`, and `option` adds one of its own.

    It decorates `measure(options, result)`, which adds rows and notes and may return the details that the table shows beside
    them; what becomes of it is the script's `main`. Before it, `check(options)` may complete or refuse what is asked.
    """

    def __init__(self, name: str, page: str | None, **defaults: Any) -> None:
        self.name, self.parser = name, Parser((page or "").partition("\n\n")[0], **defaults)
        self.option = self.parser.add_argument
        self._check: Asked = lambda options: None
        self._instead: dict[str, Asked] = {}

    def check(self, function: Asked) -> Asked:
        """Decorates the check."""
        self._check = function
        return function

    def instead(self, option: str) -> Callable[[Asked], Asked]:
        """Decorates what is done instead where an option is given, as by a process that the script starts."""
        return lambda function: self._instead.setdefault(option, function)

    def __call__(self, measure: Callable[[Any, Result], Sequence[str] | None]) -> Callable[[Sequence[str]], int]:
        self._measure = measure
        return self.main

    def main(self, arguments: Sequence[str]) -> int:
        """Measures as the command line says; returns the exit status."""
        options = self.parser.parse_args(arguments)
        self._check(options)
        for option, function in self._instead.items():
            if getattr(options, option):
                function(options)
                return DONE
        result = Result(self.name, options)
        details = self._measure(options, result) or ()
        if not result.quiet:
            result.finish(*details)
        return DONE

    def start(self) -> None:
        """Runs it as the entry point that it is."""
        run_entry_point(self.main)
