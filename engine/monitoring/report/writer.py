"""Keeps a run's report.html up to date in the background."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine.monitoring.report.page import write_report


class ReportWriter:
    """Writes one thing at a time in a thread; training never waits for it.

    A page that could not be written is reported through `tell` at the next occasion and does not end the run.
    """

    def __init__(self, run_dir: Path, tell: Callable[[str], None]):
        self._run_dir, self._tell = run_dir, tell
        self._thread = ThreadPoolExecutor(1, "report")
        self._pending: list[Future[Any]] = []
        self._page: Future[Any] | None = None
        self._stale = False

    def update(self) -> None:
        """Has the page written anew; one that is still being written at the next call is caught up with later."""
        self._collect()
        self._stale = self._page is not None and not self._page.done()
        if not self._stale:
            self._page = self.submit(write_report, self._run_dir)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Calls `function`, which writes something that the page shows, in the background."""
        future = self._thread.submit(function, *arguments)
        self._pending.append(future)
        return future

    def _collect(self) -> None:
        """Reports what failed among the finished work; a fault in the report is no reason to lose the training."""
        for future in [future for future in self._pending if future.done()]:
            self._pending.remove(future)
            error = future.exception()
            if error is not None:
                self._tell(f"the report could not be written: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Returns when the page shows the run's last state."""
        if self._stale:
            self.submit(write_report, self._run_dir)
        self._thread.shutdown()
        self._collect()
