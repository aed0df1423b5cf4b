"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, metrics.jsonl, a report."""

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Self, cast

from rich.console import Console

from engine.evaluation.average_precision import AveragePrecision
from engine.evaluation.findings import Findings
from engine.monitoring.progress_bar import StepBar, figures
from engine.monitoring.report.writer import ReportWriter
from engine.monitoring.trackers.curves import POSITION
from engine.runs.metrics_file import MetricsFile
from pipelines import Dataset
from pipelines.support.entry_point import discard_hung_up, discard_output

_PLAIN_LINE_SECONDS = 10.0


class _OutlivedTerminal:
    """Standard output, as long as its terminal is there: a run that a closed terminal does not stop (nohup, disown) goes on
    without."""

    @property
    def rich_proxied_file(self) -> Self:
        """Where a bar has standard output redirected to itself, what rich writes to instead."""
        return self

    @property
    def _stream(self) -> Any:
        return getattr(sys.stdout, "rich_proxied_file", sys.stdout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        written: int = self._or_nowhere(self._stream.write, text)
        return written

    def flush(self) -> None:
        self._or_nowhere(self._stream.flush)

    def _or_nowhere(self, do: Callable[..., Any], *arguments: str) -> Any:
        try:
            return do(*arguments)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            discard_hung_up()
            return None


class _Output(Console):
    """The terminal, or a pipe: when nobody reads it any more, the run goes on and its files tell of it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard_output()


class Monitor:
    """Records and shows rows. Only the first rank speaks and writes; on the others every method does nothing.

    `on_row` is called with every row once it is written.
    """

    def __init__(self, run_dir: Path, is_main: bool, on_row: Callable[[dict[str, Any]], None] = lambda row: None):
        self._is_main, self._on_row = is_main, on_row
        if not is_main:
            return
        self._run_dir = run_dir
        self.file = MetricsFile(run_dir / "metrics.jsonl")
        self._report = ReportWriter(run_dir, self._report_trouble)
        self._console = _Output(file=cast(IO[str], _OutlivedTerminal()), highlight=False)
        self._bar: StepBar | None = None
        self._last_line = 0.0
        self._position: dict[str, Any] = dict.fromkeys(POSITION, 0)

    def say(self, text: str) -> None:
        """One line for the person watching."""
        if self._is_main:
            self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, steps: int, done: int, epochs: int) -> None:
        """Starts the bar of a run of `steps` steps, `done` of which lie behind."""
        if self._is_main and self._console.is_terminal:
            self._bar = StepBar(self._console, steps, done, epochs)

    def advance(self, epoch: int) -> None:
        """One more step is done, of epoch number `epoch`, counted from 0."""
        if self._is_main and self._bar is not None:
            self._bar.advance(epoch)

    def pause(self, doing: str) -> None:
        """Something other than a step goes on now, such as "evaluating"."""
        if self._is_main and self._bar is not None:
            self._bar.show(doing=doing)

    def record(self, kind: str, **values: Any) -> None:
        """Writes a row of `kind` (train, eval, event, end) and shows it."""
        if not self._is_main:
            return
        row = {"kind": kind, **values}
        self._position = {name: row[name] for name in POSITION}
        self.file.write(row)
        self._on_row(row)
        if kind == "train":
            self._show_train(row)
        elif kind == "eval":
            self.say(
                f"epoch {row['epoch']:.0f}  val top-1 {row['top1']:.2f}%  top-5 {row['top5']:.2f}%  loss {row['loss']:.3f}"
                f"  over {row['count']} images, {row['time']:.0f} s since the start"
            )

    def _show_train(self, row: dict[str, Any]) -> None:
        if self._bar is not None:
            self._bar.record(row)
        elif time.monotonic() - self._last_line >= _PLAIN_LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"step {row['step']}  epoch {row['epoch']:.2f}  {figures(row)}  lr {row['lr']:.4g}")

    def keep_findings(self, findings: Findings | AveragePrecision, dataset: Dataset, row: dict[str, Any]) -> None:
        """Keeps what the evaluation of `row` found, for the report, in `evaluation.json`; in the background."""
        if self._is_main:
            self._report.submit(findings.save, self._run_dir / "evaluation.json", dataset, row)

    def report(self) -> None:
        """Has report.html written anew, in the background."""
        if self._is_main:
            self._report.update()

    def _report_trouble(self, text: str) -> None:
        self.record("event", **self._position, event="report failed", reason=text)
        self.say(text)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._is_main:
            if self._bar is not None:
                self._bar.close()
            self._report.close()
