"""The report: pages of all results, regressions beyond the noise, and tables in documents."""

import re

import numpy as np
import pytest

from benchmarks import report
from benchmarks.measuring.command_line import BenchmarkError
from benchmarks.reporting.pages import newest_sections
from benchmarks.reporting.results import Result, read_results

RNG = np.random.default_rng(0)


def write(folder, stamp, rates, **options):
    """A result with a row a subject, of rates scattered by 1% around those given."""
    result = Result("throughput", options | {"output": folder})
    result.stamp = stamp
    for subject, rate in rates.items():
        result.add({"part": "step", "of": subject}, "images/s", list(RNG.normal(rate, 0.01 * rate, 9)))
    result.add({"part": "start", "of": "ours"}, "seconds", list(RNG.normal(5, 0.05, 9)), higher_is_better=False)
    result.add_failure({"part": "step", "of": "absent peer"}, "images/s", "ImportError: <no> such | package")
    result.picture_path().write_bytes(b"picture")
    return result.finish()


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "20260101T000000Z", {"ours": 100, "theirs": 50, "steady": 80})
    write(tmp_path, "20260201T000000Z", {"ours": 80, "theirs": 60, "steady": 80})
    return tmp_path


def test_slower_faster_and_the_same_are_told_apart(folder, capsys):
    assert report.main(["--results", str(folder), "--documents"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"step, ours: -(19|20|21)\.", printed)
    assert printed.count("worse beyond the noise") == 1
    page = (folder / "report.md").read_text()
    lines = {line.split("|")[2].strip(): line for line in page.splitlines() if line.startswith("| step")}
    assert "WORSE" in lines["ours"]
    assert " better" in lines["theirs"]
    assert "within noise" in lines["steady"]
    assert "ImportError" in lines["absent peer"]
    assert "Compared with 2026-01-01" in page


def test_strict_makes_a_regression_a_failure(folder):
    assert report.main(["--results", str(folder), "--documents", "--strict"]) == 1
    write(folder, "20260301T000000Z", {"ours": 101, "theirs": 60, "steady": 80})
    assert report.main(["--results", str(folder), "--documents", "--strict"]) == 0


def test_more_seconds_are_worse(tmp_path):
    for stamp, seconds in (("20260101T000000Z", 5), ("20260102T000000Z", 8)):
        result = Result("time_to_accuracy", {"output": tmp_path})
        result.stamp = stamp
        result.add({"of": "ours"}, "seconds", list(RNG.normal(seconds, 0.1, 5)), higher_is_better=False)
        result.finish()
    (section,) = newest_sections(read_results(tmp_path))
    assert [line.split(":")[0] for line in section.regressions] == ["ours"]


def test_one_measurement_has_no_known_noise_and_is_no_regression(tmp_path):
    for stamp, value in (("20260101T000000Z", 100.0), ("20260102T000000Z", 50.0)):
        result = Result("roofline", {"output": tmp_path})
        result.stamp = stamp
        result.add({"block": "stem"}, "GB/s", value)
        result.finish()
    (section,) = newest_sections(read_results(tmp_path))
    assert section.regressions == []
    assert next(iter(section.changes.values())).relative == pytest.approx(-0.5)


def test_another_machine_or_network_is_no_predecessor(folder):
    results = read_results(folder)
    results[0]["machine"] = results[0]["machine"] | {"id": "other"}
    assert all(section.previous is None for section in newest_sections(results))


def test_the_html_page_stands_alone_and_escapes(folder):
    report.main(["--results", str(folder), "--documents"])
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "&lt;no&gt; such" in page
    assert "<no>" not in page
    assert "class='worse'" in page


def test_tables_of_documents_are_written_from_the_newest_result_and_again(folder, tmp_path):
    document = tmp_path / "README.md"
    mark = "<!-- benchmark throughput part=step of=ours|theirs -->\n"
    document.write_text(f"before\n{mark}old numbers\n<!-- end -->\nafter\n")
    for _ in range(2):
        report.main(["--results", str(folder), "--documents", str(document)])
    text = document.read_text()
    assert text.startswith(f"before\n{mark}| part | of | median (95% interval) | unit |")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old numbers" not in text
    assert "steady" not in text
    assert text.count("| step | ours |") == 1
    assert "Measured on" in text
    assert "2026-02-01" in text


def test_only_runs_that_were_asked_the_same_are_compared(tmp_path):
    write(tmp_path, "20260101T000000Z", {"ours": 100}, network="small", windows=3)
    write(tmp_path, "20260102T000000Z", {"ours": 10}, network="large")
    write(tmp_path, "20260103T000000Z", {"ours": 90}, network="small", windows=5)
    assert report.main(["--results", str(tmp_path), "--documents"]) == 0
    page = (tmp_path / "report.md").read_text()
    assert page.count("Compared with") == 1
    assert "Compared with 2026-01-01" in page
    assert page.count("## throughput") == 2


def test_a_mark_may_name_an_option_of_the_run(folder, tmp_path):
    write(folder, "20260301T000000Z", {"ours": 70}, peers=True)
    document = tmp_path / "README.md"
    document.write_text("<!-- benchmark throughput of=ours peers=True -->\n<!-- end -->\n")
    report.main(["--results", str(folder), "--documents", str(document)])
    assert "2026-03-01" in document.read_text()
    write(folder, "20260401T000000Z", {"ours": 90}, peers=False)
    report.main(["--results", str(folder), "--documents", str(document)])
    assert "2026-03-01" in document.read_text()


def test_a_mark_that_nothing_answers_and_an_empty_folder_are_errors(folder, tmp_path):
    document = tmp_path / "README.md"
    document.write_text("<!-- benchmark throughput part=nothing -->\n<!-- end -->\n")
    with pytest.raises(BenchmarkError, match=r"README\.md: no result answers"):
        report.main(["--results", str(folder), "--documents", str(document)])
    document.write_text("<!-- benchmark scaling -->\n<!-- end -->\n")
    report.main(["--results", str(folder), "--documents", str(document)])
    assert "Not measured yet: `python benchmarks/scaling.py` does." in document.read_text()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BenchmarkError, match="has no results"):
        report.main(["--results", str(empty)])
