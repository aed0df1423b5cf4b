"""The results as a page of Markdown, for readers of the repository, and as one of HTML that holds its pictures."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.reporting.results import Row, present_command, tabulated
from benchmarks.reporting.sections import Change, Section

DETAILS = ("spread", "share", "of_ours", "cpu_cores", "predicted", "bound_by", "step_seconds_p95")
DETAILS += ("set_up_seconds", "received_bytes", "disk_bytes", "top1_share", "others_share")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left}"
    "img{max-width:100%}.worse{color:#b00020;font-weight:600}.better{color:#1f6f8b;font-weight:600}"
)


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
        lines += [f"## {section.title}", "", _circumstances(section), ""]
        lines += [f"**Worse beyond the noise:** {line}  " for line in section.regressions]
        lines += ["", *markdown_table(*table(result["rows"], section.changes)), ""]
        lines += [f"- {note}" for note in result["notes"]]
        lines += ["", *(f"![{result['benchmark']}]({picture})" for picture in result["pictures"]), ""]
    return "\n".join(lines)


def html_page(sections: Sequence[Section], folder: Path) -> str:
    """The same in one file; `folder` holds its pictures."""
    parts = [f"<!doctype html><meta charset=utf-8><title>Benchmark results</title><style>{_STYLE}</style>"]
    parts.append("<h1>Benchmark results</h1>")
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2><p>{html.escape(_circumstances(section))}</p>")
        head, rows = table(section.result["rows"], section.changes)
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
