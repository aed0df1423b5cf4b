"""Results as files: one JSON file a run of a benchmark, with everything needed to repeat and to compare it."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measuring.machine import (
    ROOT,
    LoadMeter,
    command_line,
    describe_machine,
    describe_source,
    describe_versions,
    machine_line,
)
from benchmarks.measuring.measure import Measurement
from benchmarks.measuring.summaries import summarise

# In the clone; of an installed package, where the command was given.
RESULTS = Path("benchmarks", "results")
if (ROOT / "setup.py").exists():
    RESULTS = ROOT / RESULTS


@dataclass
class Row:
    """One measured quantity. `case` says of what, and with `metric` (which includes the unit) identifies it from run to
    run. `values` are the repeated measurements; a `failure` has none. `higher_is_better` gives a change its sign."""

    case: dict[str, Any]
    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    values: list[float] = field(default_factory=list)
    higher_is_better: bool = True
    failure: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The identity of what was measured."""
        return json.dumps([self.case, self.metric], sort_keys=True)

    @property
    def shown(self) -> str:
        """The value with its interval, or why there is none."""
        if self.failure is not None:
            return self.failure
        assert self.value is not None
        if self.low is None or self.high is None or self.low == self.high:
            return number(self.value)
        return f"{number(self.value)} ({number(self.low)} to {number(self.high)})"


class Result:
    """A run of the benchmark `name` in the making. `options` are what it was asked for."""

    def __init__(self, name: str, options: Mapping[str, Any] | None = None):
        self.name = name
        self.options = {key: _plain(value) for key, value in dict(options or {}).items()}
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.pictures: list[str] = []
        self.stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.machine = describe_machine()
        self._started = time.monotonic()
        self._load = LoadMeter()

    def add(
        self,
        case: Mapping[str, Any],
        metric: str,
        measured: Measurement | Iterable[float] | float,
        *,
        interval: tuple[float, float] | None = None,
        higher_is_better: bool = True,
        **details: Any,
    ) -> Row:
        """Adds a quantity: a measurement's rate, or numbers of one's own, with any further `details`."""
        row = Row(dict(case), metric, higher_is_better=higher_is_better, details=_plain(details))
        if isinstance(measured, Measurement) and not measured.windows:
            row.failure = measured.failure or "nothing measured"
        elif isinstance(measured, Measurement):
            summary = measured.rate
            row.value, row.low, row.high, row.values = summary.median, summary.low, summary.high, measured.rates
            row.details["spread"] = summary.spread
            row.details["warmup_seconds"] = measured.warmup_seconds
            if (steps := measured.step_seconds) is not None:
                row.details |= {"step_seconds": steps.median, "step_seconds_p95": steps.p95}
            if (cores := measured.cores) is not None:
                row.details["cpu_cores"] = cores.median
        elif isinstance(measured, int | float):
            row.value, row.values = float(measured), [float(measured)]
        else:
            row.values = [float(value) for value in measured]
            summary = summarise(row.values)
            row.value, row.low, row.high = summary.median, summary.low, summary.high
        if interval is not None:
            row.low, row.high = interval
        self.rows.append(row)
        return row

    def add_failure(self, case: Mapping[str, Any], metric: str, reason: str) -> Row:
        """Adds a quantity that could not be measured here, and why."""
        row = Row(dict(case), metric, failure=reason)
        self.rows.append(row)
        return row

    def note(self, text: str) -> None:
        """Adds a sentence that belongs to the result."""
        self.notes.append(text)

    def to_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "time": self.stamp,
            "seconds": round(time.monotonic() - self._started, 1),
            "command": command_line(),
            "options": self.options,
            "machine": self.machine,
            "load": self._load.read(),
            "versions": describe_versions(),
            "source": describe_source(),
            "rows": [_plain(vars(row)) for row in self.rows],
            "notes": self.notes,
            "pictures": self.pictures,
        }

    def picture_path(self, directory: Path = RESULTS, suffix: str = "") -> Path:
        """Where a picture of this run belongs; remembers it."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.name}-{self.stamp}{suffix}.png"
        self.pictures.append(path.name)
        return path

    def save(self, directory: Path = RESULTS) -> Path:
        """Writes the file, whole or not at all, and returns its path."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.name}-{self.stamp}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        temporary.replace(path)
        return path

    def print(self, columns: Iterable[str] = ("spread", "step_seconds_p95")) -> None:
        """The table of all rows, with these details, the notes, and the circumstances."""
        console = wide_console()
        rows = [
            {"case": row.case, "metric": row.metric, "shown": row.shown, "details": row.details} for row in self.rows
        ]
        console.print(table(self.name, rows, tuple(columns)))
        for note in self.notes:
            console.print(note, markup=False, soft_wrap=True)
        load = self._load.read()
        others = "unknown" if load["others"] is None else f"{load['others']:.0%}"
        console.print(
            f"Machine: {machine_line(self.machine)}; CPU time used by others: {others}", markup=False, soft_wrap=True
        )


def wide_console() -> Console:
    """A console for tables: as wide as the terminal, or wide enough where the output is a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=180)


def table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    """A rich table: the keys of the cases, the value with its unit, and the details named by `columns`."""
    cases = list(dict.fromkeys(key for row in rows for key in row["case"]))
    present = [column for column in columns if any(row["details"].get(column) is not None for row in rows)]
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (*cases, "median (95% interval)", "unit", *(column.replace("_", " ") for column in present)):
        drawn.add_column(name, overflow="fold")
    for row in rows:
        details = [shown_detail(column, row["details"].get(column)) for column in present]
        cells = [str(row["case"].get(key, "")) for key in cases] + [row["shown"], row["metric"], *details]
        drawn.add_row(*(cell.replace("[", "\\[") for cell in cells))
    return drawn


def shown_detail(name: str, value: Any) -> str:
    """A detail as a cell: shares in percent, seconds of steps in milliseconds."""
    if value is None:
        return ""
    if name in ("spread", "share") or name.endswith("_share"):
        return f"{value:.1%}"
    if name.startswith("step_seconds"):
        return f"{value * 1000:.1f} ms"
    if name.endswith("_seconds"):
        return f"{value:.1f} s"
    return number(value) if isinstance(value, int | float) else str(value)


def number(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def read_results(directory: Path = RESULTS) -> list[dict[str, Any]]:
    """All results of a folder, oldest first. Raises ValueError naming a file that is none."""
    results = []
    for path in sorted(directory.glob("*.json")):
        try:
            result = json.loads(path.read_text())
            result["rows"] = [Row(**row) for row in result["rows"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path.name} is not a result of a benchmark: {error}") from None
        results.append(result | {"file": path.name})
    return sorted(results, key=lambda result: result["time"])


def present_command(command: str) -> str:
    """A recorded command with the script where it stands today: scripts have moved into folders since."""

    def place(script: re.Match[str]) -> str:
        if (ROOT / script[0]).exists():
            return script[0]
        found = sorted((ROOT / "benchmarks").rglob(f"{script[1]}.py"))
        return str(found[0].relative_to(ROOT)) if found else script[0]

    return re.sub(r"benchmarks/(\w+)\.py", place, command)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return _place(value) if isinstance(value, Path) else value


def _place(path: Path) -> str:
    """A path without what belongs to this machine alone: below the repository, or its last part."""
    absolute = path.absolute()
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else path.name
