"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, metrics.jsonl and TensorBoard."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from engine.metrics import MetricsFile

_PLAIN_LINE_SECONDS = 10.0


class Monitor:
    """Records and shows rows. Only the first rank speaks and writes; on the others every method does nothing."""

    def __init__(self, run_dir: Path, is_main: bool):
        self._is_main = is_main
        if not is_main:
            return
        self.file = MetricsFile(run_dir / "metrics.jsonl")
        self._tensorboard = SummaryWriter(str(run_dir / "tensorboard"))
        self._console = Console(highlight=False)
        self._bar: Progress | None = None
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """One line for the person watching."""
        if self._is_main:
            self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, steps: int, done: int, epochs: int) -> None:
        """Starts the bar of a run of `steps` steps, `done` of which lie behind."""
        if not self._is_main or not self._console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("[bold]epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
        )
        self._epochs = epochs
        self._bar.add_task("train", total=steps, completed=done, epoch=f"-/{epochs}", figures="")
        self._bar.start()

    def advance(self, epoch: int) -> None:
        """One more step is done, of epoch number `epoch`, counted from 0."""
        if self._is_main and self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, epoch=f"{epoch + 1}/{self._epochs}")

    def record(self, kind: str, **values: Any) -> None:
        """Writes a row of `kind` (train, eval, event, end) everywhere it belongs and shows it."""
        if not self._is_main:
            return
        row = {"kind": kind, **values}
        self.file.write(row)
        if kind in ("train", "eval"):
            for name, value in values.items():
                if name not in ("step", "epoch", "samples", "time") and isinstance(value, (int, float)):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, row["step"])
        if kind == "train":
            self._show_train(row)
        elif kind == "eval":
            self.say(
                f"epoch {row['epoch']:.0f}  val top-1 {row['top1']:.2f}%  top-5 {row['top5']:.2f}%  loss {row['loss']:.3f}"
                f"  over {row['count']} images, {row['time']:.0f} s since the start"
            )

    def _show_train(self, row: dict[str, Any]) -> None:
        figures = (
            f"loss {row['loss']:.3f}  top-1 {row['top1']:.1f}%  {row['images_per_second']:.0f} img/s  "
            f"data wait {row['data_wait_fraction']:.0%}"
        )
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], figures=figures)
        elif time.monotonic() - self._last_line >= _PLAIN_LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"step {row['step']}  epoch {row['epoch']:.2f}  {figures}  lr {row['lr']:.4g}")

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._is_main:
            if self._bar is not None:
                self._bar.stop()
            self._tensorboard.close()
