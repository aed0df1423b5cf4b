"""The progress bar of a run on a terminal."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

from engine.monitoring.report.data import duration

_DRAW_SECONDS = 0.25
_TEXT_WIDTH = 86


def figures(row: dict[str, Any], short: bool = False) -> str:
    """A training row in a few words."""
    speed = f"{row['images_per_second']:,.0f} img/s"
    waiting = f"{'wait' if short else 'data wait'} {row['data_wait_fraction']:.0%}"
    return f"loss {row['loss']:.3f}  top-1 {row['top1']:.1f}%  {speed}  {waiting}"


class StepBar:
    """One line: the epoch, a bar over all steps of the run, the newest figures, the time left.

    It draws steps, and rows, at most four times a second, in the loop itself: a thread that draws would take turns with it.
    """

    def __init__(self, console: Console, steps: int, done: int, epochs: int):
        self._epochs, self._steps, self._done = epochs, steps, done
        self._first: tuple[float, int] | None = None
        self._drawn = self._recorded = 0.0  # when a step and when a row was last drawn: rows of every step hide none
        self._narrow = console.width < _TEXT_WIDTH + 8
        bar: list[ProgressColumn] = []
        if not self._narrow:
            bar = [BarColumn(bar_width=min(40, console.width - _TEXT_WIDTH)), TextColumn("{task.percentage:>3.0f}%")]
        self._progress = Progress(
            TextColumn("[bold]epoch {task.fields[epoch]}"),
            *bar,
            TextColumn("{task.fields[figures]}"),
            TextColumn("[cyan]{task.fields[doing]}"),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        self._task = self._progress.add_task(
            "train", total=steps, completed=done, epoch=f"-/{epochs}", figures="", doing=""
        )
        self._progress.start()

    def advance(self, epoch: int) -> None:
        """One more step is done, of epoch number `epoch`, counted from 0."""
        self._done += 1
        now = time.monotonic()
        if self._first is None:
            self._first = (now, self._done)
        if now - self._drawn >= _DRAW_SECONDS:
            self._drawn = now
            self.show(epoch=f"{epoch + 1}/{self._epochs}", doing=self._left(now))

    def _left(self, now: float) -> str:
        """The time left at the pace since the first step, which compiles, evaluations included."""
        if self._first is None or self._done == self._first[1]:
            return ""
        started, first = self._first
        seconds = (now - started) / (self._done - first) * (self._steps - self._done)
        return f"{duration(seconds) if seconds >= 60 else f'{seconds:.0f} s'} left"

    def record(self, row: dict[str, Any]) -> None:
        """Shows the figures of a training row."""
        now = time.monotonic()
        if now - self._recorded >= _DRAW_SECONDS:
            self._recorded = now
            self.show(figures=figures(row, short=self._narrow))

    def show(self, **fields: Any) -> None:
        """Draws the bar with new `epoch`, `figures` or `doing`."""
        self._progress.update(self._task, completed=self._done, **fields)
        self._progress.refresh()

    def close(self) -> None:
        """Removes the bar."""
        self._progress.stop()
