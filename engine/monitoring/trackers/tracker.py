"""What trackers with a library of their own have in common: a thread, a memory of what was told, and that they fail alone.

`metrics.jsonl` is the truth, and a tracker is told what it does not have yet: after a resume, after a failure, at the end.
"""

import json
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from engine.monitoring.hooks import Hook
from engine.monitoring.trackers.curves import KINDS
from engine.runs.checkpoint_file import write_whole
from engine.runs.metrics_file import finite

PROJECT = "inception"  # where the user's environment names none
RETRY_SECONDS, CLOSING_SECONDS = 60.0, 120.0
FAILING_SECONDS = 5.0  # where a run failed, whose other ranks stand still until its error is out
# What of a run directory is kept with the curves once the run ends, as far as it is there.
ARTIFACTS = (
    "config.yaml", "environment.json", "metrics.jsonl", "evaluation.json", "report.html", "checkpoints/best.safetensors",
)  # fmt: skip


class Tracker(Hook):
    """Tells a library of a run's rows, on the first rank, in a thread of its own: nothing that it does, or fails to do, holds
    the training up or ends it.

    A subclass has a `name` and the methods at the end. `offline`: nothing leaves the machine.
    """

    name: str

    def __init__(self, folder: Path, offline: bool):
        self.folder, self.offline = folder, offline
        self.own_folder = folder / "trackers"
        self._memory = self.own_folder / f"{self.name}.json"
        self._thread: threading.Thread | None = None
        self._work, self._leaving, self._trouble = threading.Event(), False, ""
        self._open, self._next_try, self._said = False, 0.0, False
        self._rows: deque[dict[str, Any]] = deque()  # written and not yet told
        self._reason = "failed"  # until the run says otherwise

    def on_row(self, run: Any, row: dict[str, Any]) -> None:
        self._run = run
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell_on, name=f"tracker {self.name}", daemon=True)
            self._thread.start()
        self._rows.append(finite(row))
        self._work.set()
        # No row may follow the one that says how the run ended.
        if row["kind"] in KINDS and self._trouble and not self._said:
            self._said = True
            words = f"{self._trouble}; the run goes on, and it is told what it missed once it answers"
            run.recorder.trouble("tracker failed", f"tracker {self.name}: {words}")

    def on_end(self, run: Any, outcome: Any) -> None:
        self._reason = outcome.reason

    def close(self) -> None:
        """Tells the rest and hands over the files; gives up after two minutes (seconds, where the run failed), with one line."""
        if self._thread is None:
            return
        self._leaving = True
        self._work.set()
        patience = FAILING_SECONDS if self._reason == "failed" else CLOSING_SECONDS
        self._thread.join(patience)
        if self._thread.is_alive():
            self._trouble = f"not done after {patience:.0f} s"
        if self._trouble:
            words = "it was not told all, which metrics.jsonl holds and the run's next start tells"
            self._run.monitor.say(f"tracker {self.name}: {self._trouble}; {words}")

    # ---- in the thread --------------------------------------------------------------------------------------------

    def _tell_on(self) -> None:
        while not self._leaving:
            self._work.wait()
            self._work.clear()
            if time.monotonic() >= self._next_try:
                self._try(self._tell)
        self._try(self._tell)
        if self._open:
            self._try(self._finish)

    def _try(self, do: Any) -> None:
        try:
            do()
        except Exception as error:  # whatever a library raises
            self._trouble = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self._open, self._next_try = False, time.monotonic() + RETRY_SECONDS

    def _tell(self) -> None:
        """Opens the session if none is open, and tells it all rows that it was not told."""
        told = self._remembered()
        if not self._open:
            self._rows.clear()  # the file has them
            told["id"] = self.begin(told.get("id"), self.folder.name, self._settings())
            self._remember(told)
            self._open = True
            rows = self._run.directory.metrics.rows()
        else:
            rows = [self._rows.popleft() for _ in range(len(self._rows))]
        new = [row for row in rows if row["kind"] in KINDS and row["step"] > told.get(row["kind"], -1)]
        ended = time.time() - (rows[-1]["time"] if rows else 0.0)
        try:
            for row in new:
                curves = {
                    f"{row['kind']}/{key}": value
                    for key, value in row.items()
                    if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
                }
                self.log(curves, row["step"], ended + row["time"])
                told[row["kind"]] = row["step"]
        finally:
            if new:
                self._remember(told)
        self._trouble, self._said = "", False  # a later failure is another one

    def _settings(self) -> dict[str, Any]:
        tree = self._run.config.to_dict()
        return tree | {"environment": json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))}

    def _finish(self) -> None:
        files = [self.folder / name for name in ARTIFACTS if (self.folder / name).is_file()]
        self.finish(files, self._reason)

    def _remembered(self) -> dict[str, Any]:
        try:
            found = json.loads(self._memory.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _remember(self, told: dict[str, Any]) -> None:
        self.own_folder.mkdir(exist_ok=True)
        write_whole(self._memory, json.dumps(told) + "\n")

    # ---- of each library ------------------------------------------------------------------------------------------

    @classmethod
    def require(cls, offline: bool) -> None:
        """Raises ConfigError for what can be known to be missing before a run starts."""

    def begin(self, known: str | None, name: str, settings: dict[str, Any]) -> str:
        """Goes on with the session that has the id `known`, or begins one called `name` with the run's options and its
        environment; its id."""
        raise NotImplementedError

    def log(self, curves: dict[str, float], step: int, when: float) -> None:
        """Tells the numbers of a row, of `step`, written at the time `when` [seconds since 1970]."""
        raise NotImplementedError

    def finish(self, files: list[Path], reason: str) -> None:
        """Hands over `files` of the run directory and ends the session; `reason` as in the run's end row, or "failed"."""
        raise NotImplementedError
