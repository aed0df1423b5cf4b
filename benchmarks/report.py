"""All results in one page, newest against previous, and the tables of the README and the documents from the same numbers.

    python benchmarks/report.py
    python benchmarks/report.py --table         prints every result in one table, and writes nothing
    python benchmarks/report.py --strict        ends with status 1 when something became worse beyond the noise

Writes report.html and report.md beside the results, and fills in every document's marked tables:

    <!-- benchmark throughput part=data -->
    <!-- end -->

stands for the rows of the newest throughput result whose case has part=data; values are separated by `|`. With folder=NAME it
is the newest in the folder of that name beside the results, where those of another machine are kept.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.measuring import RESULTS, ROOT, BenchmarkError, Parser, machine_line
from benchmarks.reporting import pages
from benchmarks.reporting.results import Row, drawn, present_command, read_results, wide_console
from engine.faults.exit_status import DONE, FAILED, run_entry_point

_MARKED = re.compile(r"(<!-- benchmark (\w+)((?: \w+=[^\s>]+)*) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    parser = Parser("One page of all results, and the documents' tables.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    marked = "files with marked tables; not given: README.md and docs"
    parser.add_argument("--documents", type=Path, nargs="*", help=marked)
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
        named = [(result["benchmark"], row) for result in results for row in result["rows"]]
        rows = [replace(row, case={"benchmark": name} | row.case) for name, row in named]
        wide_console().print(drawn("results", rows, pages.DETAILS))
        return DONE
    sections = pages.newest_sections(results)
    page = options.results / "report.html"
    page.write_text(pages.html_page(sections, options.results))
    page.with_suffix(".md").write_text(pages.markdown_page(sections))
    documents = options.documents
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if documents is None else documents:
        text = document.read_text()
        if _MARKED.search(text):
            document.write_text(filled(text, results, document.name, options.results))
    print(f"{len(results)} results of {len({result['benchmark'] for result in results})} benchmarks: {page}")
    worse = [f"{section.title}: {line}" for section in sections for line in section.regressions]
    for line in worse:
        print(f"worse beyond the noise: {line}")
    return FAILED if options.strict and worse else DONE


def filled(text: str, results: Sequence[dict[str, Any]], name: str, folder: Path = RESULTS) -> str:
    """`text` with every marked table written anew. Raises BenchmarkError for a mark that no row answers."""

    def written(mark: re.Match[str]) -> str:
        wanted = dict(pair.split("=", 1) for pair in mark[3].split())
        beside = wanted.pop("folder", None)
        among = results if beside is None else read_results(folder / beside)
        candidates = [result for result in reversed(among) if result["benchmark"] == mark[2]]
        for result in candidates:
            rows = [row for row in result["rows"] if _matches(row, result["options"], wanted)]
            if rows:
                when, command = pages.date(result["time"]), present_command(result["command"])
                origin = f"Measured on {machine_line(result['machine'])}; {when}; `{command}`."
                return "\n".join([mark[1].rstrip("\n"), *pages.markdown_table(*pages.table(rows)), "", origin, mark[4]])
        if not candidates:
            script = present_command(f"python benchmarks/{mark[2]}.py")
            return f"{mark[1]}Not measured yet: `{script}` does.\n{mark[4]}"
        raise BenchmarkError(f"{name}: no result answers the mark {mark[1].strip()}")

    return _MARKED.sub(written, text)


def _matches(row: Row, options: dict[str, Any], wanted: dict[str, str]) -> bool:
    """Whether a row's case, or else its run's options, are as a mark wants them."""
    found = {key: str(value) for key, value in (options | row.case).items()} | {"metric": row.metric}
    return all(found.get(key, "").replace(" ", "_") in value.split("|") for key, value in wanted.items())


if __name__ == "__main__":
    run_entry_point(main)
