"""The results as a page of Markdown, for readers of the repository, and as one of HTML that holds its pictures."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from benchmarks.reporting.results import Row, present_command, tabulated
from benchmarks.reporting.sections import Change, Section

DETAILS = ("spread", "share", "of_ours", "cpu_cores", "predicted", "bound_by", "step_seconds_p95")


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
        lines += [f"## {section.title}", "", circumstances(section), ""]
        lines += [f"**Worse beyond the noise:** {line}  " for line in section.regressions]
        lines += ["", *markdown_table(*table(result["rows"], section.changes)), ""]
        lines += [f"- {note}" for note in result["notes"]]
        lines += ["", *(f"![{result['benchmark']}]({picture})" for picture in result["pictures"]), ""]
    return "\n".join(lines)


def html_page(sections: Sequence[Section], folder: Path) -> str:
    """The same in one file; `folder` holds its pictures."""
    templates = jinja2.Environment(
        autoescape=True, trim_blocks=True, loader=jinja2.FileSystemLoader(Path(__file__).parent)
    )
    pictures = {file.name: base64.b64encode(file.read_bytes()).decode() for file in folder.glob("*.png")}
    page = templates.get_template("report.html")
    return page.render(sections=sections, pictures=pictures, table=table, circumstances=circumstances)


def circumstances(section: Section) -> str:
    """When, by which command, of which source, and beside what else a result was measured."""
    result = section.result
    others, source = result["load"]["others"], result["source"]
    changed = f" and {source['changed_files']} changed files" if source.get("changed_files") else ""
    compared = f" Compared with {date(section.previous['time'])}." if section.previous else ""
    return (
        f"{date(result['time'])}, `{present_command(result['command'])}`, {result['seconds']:.0f} s, "
        f"commit {source.get('commit', 'unknown')}{changed}, torch {result['versions']['torch']}; CPU time used by others: "
        f"{'unknown' if others is None else f'{others:.0%}'}.{compared}"
    )


def date(stamp: str) -> str:
    """20260131T120000Z as 2026-01-31."""
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}"
