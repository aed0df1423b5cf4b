"""Results as files: one JSON file a run of a benchmark, with everything needed to repeat and to compare it."""

import json
import math
import re
import shlex
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box, filesize
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import RESULTS, ROOT, Measurement, Ratio, machine, machine_line, summarise


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
        """The value with its interval, of two values both, or why there is none."""
        if self.value is None:
            return self.failure or "nothing measured"
        if self.low is None or self.high is None or self.low == self.high:
            return number(self.value)
        between = "and" if sorted(self.values) == [self.low, self.high] else "to"
        return f"{number(self.value)} ({number(self.low)} {between} {number(self.high)})"


class Result:
    """A run of the benchmark `name` in the making: its rows, notes and pictures, and what it says meanwhile.

    `options` are what it was asked for, `output` among them the folder of its files. A `quiet` one says nothing and leaves no
    file, as all ranks but the first should.
    """

    quiet = False

    def __init__(self, name: str, options: Mapping[str, Any] | Namespace | None = None):
        known = vars(options) if isinstance(options, Namespace) else dict(options or {})
        self.name, self.folder, self.options = name, Path(known.get("output") or RESULTS), _plain(known)
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.pictures: list[str] = []
        self.stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.machine = machine.describe_machine()
        self._started, self._load = time.monotonic(), machine.LoadMeter()

    def say(self, text: str) -> None:
        """A line for whoever waits."""
        if not self.quiet:
            wide_console().print(text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Adds a sentence that belongs to the result."""
        self.notes.append(text)

    def add(
        self, case: Mapping[str, Any], metric: str, measured: Measurement | Ratio | Iterable[float] | float, *,
        interval: tuple[float, float] | None = None, higher_is_better: bool = True, **details: Any,
    ) -> Row:  # fmt: skip
        """Adds a quantity: a measurement's rate, a ratio, or numbers of one's own, with any further `details`."""
        row = Row(dict(case), metric, higher_is_better=higher_is_better, details=_plain(details))
        self.rows.append(row)
        if isinstance(measured, int | float | Ratio):
            row.value = float(measured.value if isinstance(measured, Ratio) else measured)
            row.values = [row.value]
            interval = (measured.low, measured.high) if isinstance(measured, Ratio) else interval
        elif isinstance(measured, Measurement) and not measured.windows:
            row.failure = measured.failure or "nothing measured"
        else:
            row.values = measured.rates if isinstance(measured, Measurement) else list(map(float, measured))
            summary = summarise(row.values)
            row.value, row.low, row.high = summary.median, summary.low, summary.high
            if isinstance(measured, Measurement):
                row.details |= {"spread": summary.spread, "warmup_seconds": measured.warmup_seconds}
                if measured.step_seconds:
                    steps = summarise(measured.step_seconds)
                    row.details |= {"step_seconds": steps.median, "step_seconds_p95": steps.p95}
                if measured.cores:
                    row.details["cpu_cores"] = summarise(measured.cores).median
        row.low, row.high = interval or (row.low, row.high)
        return row

    def add_each(
        self, case: Mapping[str, Any], key: str, metric: str, measured: Mapping[str, Any], **keywords: Any
    ) -> None:
        """Adds a row for each entry of `measured`, whose name is `key` in its case."""
        for name, values in measured.items():
            self.add({**case, key: name}, metric, values, **keywords)

    def add_failure(self, case: Mapping[str, Any], metric: str, reason: str) -> None:
        """Adds a quantity that could not be measured here, and why."""
        self.rows.append(Row(dict(case), metric, failure=reason))

    def picture_path(self) -> Path:
        """Where the picture of this run belongs; remembers it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pictures.append(f"{self.name}-{self.stamp}.png")
        return self.folder / self.pictures[-1]

    def finish(self, *columns: str) -> Path:
        """Prints the table with these details, the notes and the circumstances, and writes the file; returns its path."""
        wide_console().print(drawn(self.name, self.rows, columns or ("spread", "step_seconds_p95")))
        others = f"CPU time used by others: {self._load.read()['others']:.0%}"
        for line in (*self.notes, f"Machine: {machine_line(self.machine)}; {others}"):
            self.say(line)
        path = self.save()
        self.say(f"Written: {path}")
        return path

    def save(self) -> Path:
        """Writes the file, whole or not at all, with what is measured so far: what is cut off keeps it; returns its path."""
        content = {
            "benchmark": self.name, "time": self.stamp, "seconds": round(time.monotonic() - self._started, 1),
            "command": machine.command_line(), "options": self.options, "machine": self.machine, "load": self._load.read(),
            "versions": machine.describe_versions(), "source": machine.describe_source(),
            "rows": [_plain(vars(row)) for row in self.rows], "notes": self.notes, "pictures": self.pictures,
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.name}-{self.stamp}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        temporary.replace(path)
        return path


def tabulated(rows: Iterable[Row], columns: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """Head and cells of a table: what the cases say, the value with its interval, its unit, and the details that any row
    has of `columns`."""
    rows = list(rows)
    keys = list(dict.fromkeys(key for row in rows for key in row.case))
    present = [column for column in columns if any(row.details.get(column) is not None for row in rows)]
    head = [*keys, "median (95% interval)", "unit", *(column.replace("_", " ") for column in present)]
    cells = [[*(str(row.case.get(key, "")) for key in keys), row.shown, row.metric] for row in rows]
    details = [[shown_detail(column, row.details.get(column)) for column in present] for row in rows]
    return head, [[*line, *more] for line, more in zip(cells, details)]


def drawn(title: str, rows: Iterable[Row], columns: Iterable[str]) -> Table:
    """The same for a terminal."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    head, cells = tabulated(rows, columns)
    for name in head:
        table.add_column(name, overflow="fold")
    for line in cells:
        table.add_row(*(cell.replace("[", "\\[") for cell in line))
    return table


def wide_console() -> Console:
    """A console for tables: as wide as the terminal, or wide enough where the output is a file."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 180
    return console


def shown_detail(name: str, value: Any) -> str:
    """A detail as a cell: shares in percent, seconds of steps in milliseconds, bytes in units of a thousand."""
    if value is None:
        return ""
    if name.endswith("_bytes"):
        return filesize.decimal(value)
    if name in ("spread", "share") or name.endswith("_share"):
        return f"{value:.1%}"
    if name.startswith("step_seconds"):
        return f"{value * 1000:.1f} ms"
    if name.endswith("_seconds"):
        return f"{value:.1f} s"
    return number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


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
    """A recorded command with the script where it stands today, since scripts have moved into folders, and without the folder
    that its file went to."""

    def place(script: re.Match[str]) -> str:
        rooms = [] if (ROOT / script[0]).exists() else [ROOT / "benchmarks", ROOT / "tests/support"]
        found = [file for room in rooms for file in sorted(room.rglob(f"{script[1]}.py"))]
        return str(found[0].relative_to(ROOT)) if found else script[0]

    words = shlex.split(command)
    asked = [word for before, word in zip(["", *words], words) if "--output" not in (before, word.partition("=")[0])]
    return re.sub(r"benchmarks/(?:\w+/)?(\w+)\.py", place, shlex.join(asked))


def _plain(value: Any) -> Any:
    """`value` as JSON has it: nothing that is not finite, and of a path only what does not belong to this machine alone."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        absolute = value.absolute()
        return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else value.name
    return value
