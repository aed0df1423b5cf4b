"""The results as a page of Markdown, for readers of the repository, and as one of HTML that holds its pictures: the newest of
each benchmark, and what changed since the previous one that was asked in the same way, on the same machine.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from benchmarks.measuring import change_beyond_noise, machine_line
from benchmarks.reporting.results import Row, present_command, tabulated

DETAILS = (
    "spread", "share", "of_ours", "cpu_cores", "predicted", "bound_by", "step_seconds_p95", "pixels", "last_loss", "fp64",
)  # fmt: skip
# Options that say how exactly to measure, not what.
_PRECISION = {"windows", "seconds", "budget", "rounds", "output"}


@dataclass(frozen=True)
class Change:
    """How a row moved since the previous result; `beyond_noise` as measured."""

    relative: float
    beyond_noise: bool
    better: bool

    @property
    def shown(self) -> str:
        word = ("better" if self.better else "WORSE") if self.beyond_noise else "within noise"
        return f"{self.relative:+.1%} {word}"


@dataclass(frozen=True)
class Section:
    """The newest result, the previous one, and the changes of the rows by key."""

    result: dict[str, Any]
    previous: dict[str, Any] | None
    changes: dict[str, Change]

    @property
    def title(self) -> str:
        asked = present_command(self.result["command"]).partition(".py")[2]
        return f"{self.result['benchmark']}{asked} on {machine_line(self.result['machine'])}"

    @property
    def regressions(self) -> list[str]:
        """The rows that became worse beyond the noise, in words."""
        changed = [(row, self.changes[row.key]) for row in self.result["rows"] if row.key in self.changes]
        worse = [(row, change) for row, change in changed if change.beyond_noise and not change.better]
        return [f"{', '.join(str(v) for v in row.case.values() if v != '')}: {change.shown}" for row, change in worse]

    @property
    def circumstances(self) -> str:
        """When, by which command, of which source, and beside what else the result was measured."""
        result, others, source = self.result, self.result["load"]["others"], self.result["source"]
        changed = f" and {source['changed_files']} changed files" if source.get("changed_files") else ""
        compared = f" Compared with {date(self.previous['time'])}." if self.previous else ""
        return (
            f"{date(result['time'])}, `{present_command(result['command'])}`, {result['seconds']:.0f} s, "
            f"commit {source.get('commit', 'unknown')}{changed}, torch {result['versions']['torch']}; CPU time used by "
            f"others: {'unknown' if others is None else f'{others:.0%}'}.{compared}"
        )


def newest_sections(results: Sequence[dict[str, Any]]) -> list[Section]:
    """A section for what a benchmark was asked and on which machine, in the order of the names, the newest first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["benchmark"], result["machine"]["id"]), []).append(result)
    sections = []
    for _, group in sorted(groups.items()):
        while group:
            newest = group.pop()
            # Asked the same, however precisely; options that only one of them knows do not count.
            earlier = [r for r in group if all(r["options"][o] == newest["options"][o]
                       for o in (r["options"].keys() & newest["options"].keys()) - _PRECISION)]  # fmt: skip
            group = [result for result in group if result not in earlier]
            previous = earlier[-1] if earlier else None
            sections.append(Section(newest, previous, _changes(newest, previous) if previous else {}))
    return sections


def _changes(newest: dict[str, Any], previous: dict[str, Any]) -> dict[str, Change]:
    """The change of every row that both results have, by key. Rows of fewer than three values have no known noise."""
    before, found = {row.key: row for row in previous["rows"] if row.value}, {}
    for row in newest["rows"]:
        old = before.get(row.key)
        if old is not None and row.value is not None:
            repeated = min(len(row.values), len(old.values)) >= 3
            beyond = repeated and change_beyond_noise(row.values, old.values) is not None
            relative = row.value / old.value - 1
            found[row.key] = Change(relative, beyond, (relative > 0) == row.higher_is_better)
    return found


def table(rows: Sequence[Row], moved: Mapping[str, Change] | None = None) -> tuple[list[str], list[list[str]]]:
    """Head and cells: the keys of the cases, the value with its interval, its unit, details, the change."""
    head, cells = tabulated(rows, DETAILS)
    if moved:
        head.append("since the previous")
        cells = [[*line, moved[row.key].shown if row.key in moved else ""] for row, line in zip(rows, cells)]
    return head, cells


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def markdown_page(sections: Sequence[Section]) -> str:
    """The page for readers of the repository; pictures lie beside it."""
    lines = ["# Benchmark results", "", "Written by `benchmarks/report.py`; do not edit.", ""]
    for section in sections:
        result = section.result
        lines += [f"## {section.title}", "", section.circumstances, ""]
        lines += [f"**Worse beyond the noise:** {line}  " for line in section.regressions]
        lines += ["", *markdown_table(*table(result["rows"], section.changes)), ""]
        lines += [f"- {note}" for note in result["notes"]]
        lines += ["", *(f"![{result['benchmark']}]({picture})" for picture in result["pictures"]), ""]
    return "\n".join(lines)


def html_page(sections: Sequence[Section], folder: Path) -> str:
    """The same in one file; `folder` holds its pictures."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(autoescape=True, trim_blocks=True, loader=loader).get_template("report.html")
    pictures = {file.name: base64.b64encode(file.read_bytes()).decode() for file in folder.glob("*.png")}
    return page.render(sections=sections, pictures=pictures, table=table)


def date(stamp: str) -> str:
    """20260131T120000Z as 2026-01-31."""
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}"
