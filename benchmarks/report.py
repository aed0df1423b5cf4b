"""All results in one page, newest against previous, and the tables of the README and the documents from the same numbers.

    python benchmarks/report.py
    python benchmarks/report.py --table         prints every result in one table, and writes nothing
    python benchmarks/report.py --strict        ends with status 1 when something became worse beyond the noise

Writes report.html and report.md beside the results, and fills in every document's marked tables:

    <!-- benchmark throughput part=data -->
    <!-- end -->

stands for the rows of the newest throughput result whose case has part=data; values are separated by `|`.
"""

from __future__ import annotations

import base64
import html
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from benchmarks.measuring.command_line import BenchmarkError, Parser
from benchmarks.measuring.machine import machine_line
from benchmarks.measuring.summaries import change_beyond_noise
from benchmarks.reporting.results import (
    RESULTS,
    Row,
    present_command,
    read_results,
    shown_detail,
    table,
    wide_console,
)
from engine.faults.exit_status import DONE, FAILED, run_entry_point

_DETAILS = ("spread", "share", "of_ours", "cpu_cores", "predicted", "bound_by", "step_seconds_p95")
_MARKED = re.compile(r"(<!-- benchmark (\w+)((?: \w+=[^\s>]+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
# Options that say how exactly to measure, not what.
_PRECISION = {"windows", "seconds", "budget", "rounds", "output"}
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left}"
    "img{max-width:100%}.worse{color:#b00020;font-weight:600}.better{color:#1f6f8b;font-weight:600}"
)


@dataclass(frozen=True)
class Change:
    """How a row moved since the previous result of the same benchmark and machine; `beyond_noise` as measured."""

    relative: float
    beyond_noise: bool
    better: bool

    @property
    def shown(self) -> str:
        word = ("better" if self.better else "WORSE") if self.beyond_noise else "within noise"
        return f"{self.relative:+.1%} {word}"


@dataclass(frozen=True)
class Section:
    """The newest result of one benchmark, asked in one way, on one machine, and the changes of its rows (by key) since the
    previous."""

    result: dict[str, Any]
    previous: dict[str, Any] | None
    changes: dict[str, Change]

    @property
    def title(self) -> str:
        asked = self.result["command"].partition(".py")[2]
        return f"{self.result['benchmark']}{asked} on {machine_line(self.result['machine'])}"

    @property
    def regressions(self) -> list[Row]:
        """Rows that became worse beyond the noise."""
        changes = self.changes
        return [
            row
            for row in self.result["rows"]
            if row.key in changes and changes[row.key].beyond_noise and not changes[row.key].better
        ]


def main(arguments: Sequence[str]) -> int:
    parser = Parser("One page of all results, and the documents' tables.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument(
        "--documents",
        type=Path,
        nargs="*",
        default=None,
        help="files whose marked tables are written; none: README.md and docs/*.md",
    )
    parser.add_argument("--table", action="store_true", help="print every result in one table, and write nothing")
    parser.add_argument("--strict", action="store_true", help="status 1 when something became worse beyond the noise")
    options = parser.parse_args(arguments)
    try:
        results = read_results(options.results)
    except ValueError as error:
        raise BenchmarkError(str(error)) from None
    if not results:
        raise BenchmarkError(f"{options.results} has no results: run benchmarks/throughput.py first")
    if options.table:
        rows = [
            {
                "case": {"benchmark": result["benchmark"]} | row.case,
                "metric": row.metric,
                "shown": row.shown,
                "details": row.details,
            }
            for result in results
            for row in result["rows"]
        ]
        wide_console().print(table("results", rows, _DETAILS))
        return DONE
    sections = newest_sections(results)
    (options.results / "report.html").write_text(html_page(sections, options.results))
    (options.results / "report.md").write_text(markdown_page(sections))
    documents = (
        [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if options.documents is None else options.documents
    )
    for document in documents:
        text = document.read_text()
        if _MARKED.search(text):
            document.write_text(filled(text, results, document.name))
    regressions = [row for section in sections for row in section.regressions]
    print(
        f"{len(results)} results of {len({r['benchmark'] for r in results})} benchmarks: {options.results / 'report.html'}"
    )
    for section in sections:
        for row in section.regressions:
            print(f"worse beyond the noise: {section.title}: {_case(row)}: {section.changes[row.key].shown}")
    return FAILED if options.strict and regressions else DONE


def newest_sections(results: Sequence[dict[str, Any]]) -> list[Section]:
    """A section for what a benchmark was asked and on which machine, in the order of the names, the newest first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["benchmark"], result["machine"]["id"]), []).append(result)
    sections = []
    for _, group in sorted(groups.items()):
        while group:
            newest = group.pop()
            earlier = [result for result in group if _same_question(result["options"], newest["options"])]
            group = [result for result in group if result not in earlier]
            previous = earlier[-1] if earlier else None
            sections.append(Section(newest, previous, changes(newest, previous) if previous else {}))
    return sections


def _same_question(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two runs were to measure the same, however precisely; options that only one of them knows do not count."""
    shared = (left.keys() & right.keys()) - _PRECISION
    return all(left[option] == right[option] for option in shared)


def changes(newest: dict[str, Any], previous: dict[str, Any]) -> dict[str, Change]:
    """The change of every row that both results have, by key. Rows of fewer than three values have no known noise."""
    before = {row.key: row for row in previous["rows"] if row.value}
    found = {}
    for row in newest["rows"]:
        old = before.get(row.key)
        if old is None or row.value is None:
            continue
        repeated = min(len(row.values), len(old.values)) >= 3
        beyond = change_beyond_noise(row.values, old.values) if repeated else None
        relative = row.value / old.value - 1
        found[row.key] = Change(relative, beyond is not None, (relative > 0) == row.higher_is_better)
    return found


# ---- pages ----------------------------------------------------------------------------------------------------------


def markdown_page(sections: Sequence[Section]) -> str:
    """The page for readers of the repository; pictures lie beside it."""
    lines = ["# Benchmark results", "", "Written by `benchmarks/report.py`; do not edit.", ""]
    for section in sections:
        result = section.result
        lines += [f"## {section.title}", "", _circumstances(section), ""]
        lines += [
            f"**Worse beyond the noise:** {_case(row)}: {section.changes[row.key].shown}  "
            for row in section.regressions
        ]
        lines += ["", *_markdown_table(*_table(result["rows"], section.changes)), ""]
        lines += [f"- {note}" for note in result["notes"]]
        lines += ["", *(f"![{result['benchmark']}]({picture})" for picture in result["pictures"]), ""]
    return "\n".join(lines)


def html_page(sections: Sequence[Section], folder: Path) -> str:
    """The same in one file that holds its pictures."""
    parts = [f"<!doctype html><meta charset=utf-8><title>Benchmark results</title><style>{_STYLE}</style>"]
    parts.append("<h1>Benchmark results</h1>")
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2><p>{html.escape(_circumstances(section))}</p>")
        head, rows = _table(section.result["rows"], section.changes)
        parts.append("<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>")
        for row in rows:
            cells = "".join(f"<td class='{_class(cell)}'>{html.escape(cell)}</td>" for cell in row)
            parts.append(f"<tr>{cells}</tr>")
        parts.append("</table><ul>" + "".join(f"<li>{html.escape(n)}</li>" for n in section.result["notes"]) + "</ul>")
        for picture in section.result["pictures"]:
            if (folder / picture).exists():
                data = base64.b64encode((folder / picture).read_bytes()).decode()
                parts.append(f"<img alt='{html.escape(picture)}' src='data:image/png;base64,{data}'>")
    return "\n".join(parts) + "\n"


def _class(cell: str) -> str:
    return "worse" if cell.endswith("WORSE") else "better" if cell.endswith(" better") else ""


def _circumstances(section: Section) -> str:
    result = section.result
    others = result["load"]["others"]
    source = result["source"]
    changed = f" and {source['changed_files']} changed files" if source.get("changed_files") else ""
    compared = f" Compared with {_date(section.previous['time'])}." if section.previous else ""
    return (
        f"{_date(result['time'])}, `{present_command(result['command'])}`, {result['seconds']:.0f} s, "
        f"commit {source.get('commit', 'unknown')}{changed}, torch {result['versions']['torch']}; CPU time used by others: "
        f"{'unknown' if others is None else f'{others:.0%}'}.{compared}"
    )


def _table(rows: Sequence[Row], moved: dict[str, Change]) -> tuple[list[str], list[list[str]]]:
    """Head and cells: the keys of the cases, the value with its interval, its unit, details, the change."""
    keys = list(dict.fromkeys(key for row in rows for key in row.case))
    details = [name for name in _DETAILS if any(row.details.get(name) is not None for row in rows)]
    head = [*keys, "median (95% interval)", "unit", *(name.replace("_", " ") for name in details)]
    cells = [
        [str(row.case.get(key, "")) for key in keys]
        + [row.shown, row.metric]
        + [shown_detail(name, row.details.get(name)) for name in details]
        for row in rows
    ]
    if moved:
        head.append("since the previous")
        cells = [[*line, moved[row.key].shown if row.key in moved else ""] for row, line in zip(rows, cells)]
    return head, cells


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _case(row: Row) -> str:
    return ", ".join(str(value) for value in row.case.values() if value != "")


def _date(stamp: str) -> str:
    """20260131T120000Z as 2026-01-31."""
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}"


# ---- tables in documents --------------------------------------------------------------------------------------------


def filled(text: str, results: Sequence[dict[str, Any]], name: str) -> str:
    """`text` with every marked table written anew. Raises BenchmarkError for a mark that no row answers."""

    def table(mark: re.Match[str]) -> str:
        wanted = dict(pair.split("=", 1) for pair in mark[3].split())
        for result in reversed(results):
            rows = [row for row in result["rows"] if _matches(row, result["options"], wanted)]
            if result["benchmark"] == mark[2] and rows:
                head, cells = _table(rows, {})
                origin = f"{machine_line(result['machine'])}; {_date(result['time'])}; `{present_command(result['command'])}`"
                return "\n".join(
                    [mark[1].rstrip("\n"), *_markdown_table(head, cells), "", f"Measured on {origin}.", mark[4]]
                )
        if all(result["benchmark"] != mark[2] for result in results):
            script = present_command(f"python benchmarks/{mark[2]}.py")
            return f"{mark[1]}Not measured yet: `{script}` does.\n{mark[4]}"
        raise BenchmarkError(f"{name}: no result answers the mark {mark[1].strip()}")

    return _MARKED.sub(table, text)


def _matches(row: Row, options: dict[str, Any], wanted: dict[str, str]) -> bool:
    """Whether a row's case, or else its run's options, are as a mark wants them."""
    found = {key: str(value) for key, value in (options | row.case).items()} | {"metric": row.metric}
    return all(found.get(key, "").replace(" ", "_") in value.split("|") for key, value in wanted.items())


if __name__ == "__main__":
    run_entry_point(main)
