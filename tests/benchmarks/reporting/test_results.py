"""Result files: complete, valid JSON, readable again, with the circumstances of the measurement."""

import json
import math
import sys

import pytest

from benchmarks.measuring.machine import ROOT, command_line, describe_source, describe_versions
from benchmarks.measuring.measure import Measurement, Window, alternate
from benchmarks.reporting.results import Result, number, present_command, read_results


def test_a_result_reads_back_as_it_was(tmp_path):
    result = Result("example", {"seconds": 1.0, "folder": tmp_path, "output": tmp_path})
    measured = alternate({"a": lambda: Window(10, 2.0, (0.1, 0.3))}, windows=3)["a"]
    row = result.add({"subject": "a"}, "images/s", measured, size=64)
    result.add({"subject": "b"}, "images/s", Measurement("b", failure="ImportError: no such package"))
    result.add({"subject": "c"}, "seconds", [1.0, 2.0, 3.0], interval=(0.5, 3.5), higher_is_better=False)
    result.note("the warm-up is excluded")
    path = result.finish()

    read = read_results(tmp_path)[0]
    assert read["file"] == path.name
    assert [r.key for r in read["rows"]] == [r.key for r in result.rows]
    assert read["rows"][0].values == [5.0, 5.0, 5.0]
    assert read["rows"][0].details == row.details
    assert row.details["step_seconds_p95"] == pytest.approx(0.3)
    assert read["rows"][1].failure == "ImportError: no such package"
    assert (read["rows"][2].low, read["rows"][2].high) == (0.5, 3.5)
    assert read["notes"] == ["the warm-up is excluded"]
    for circumstance in ("time", "command", "machine", "load", "versions", "source"):
        assert read[circumstance], circumstance


def test_what_is_not_finite_never_reaches_a_file(tmp_path):
    result = Result("example", {"output": tmp_path})
    result.add({"subject": "a"}, "images/s", 1.0, ratio=math.inf)
    assert json.loads(result.finish().read_text())["rows"][0]["details"]["ratio"] is None


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "other.json").write_text('{"rows": 3}')
    with pytest.raises(ValueError, match=r"other\.json"):
        read_results(tmp_path)


def test_versions_and_source_name_what_was_measured():
    import torch

    assert describe_versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    if (ROOT / ".git").exists():  # files without a history have no commit
        assert len(describe_source()["commit"]) == 12


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1234.5, "1,234"), (12.345, "12.3"), (0.01234, "0.0123"), (999.9, "1,000")]
)
def test_numbers_show_three_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    "output", [["--output", "out"], ["--output=out"], ["--output", "/my results"], ["--output=/my results"]]
)
def test_a_command_is_shown_without_the_folder_of_its_file(monkeypatch, output):
    monkeypatch.setattr(
        sys, "argv", ["benchmarks/roofline.py", *output, "--data", "/a b/c d", "--recipe-output", "x", "--lr=/e/f"]
    )
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    recorded = command_line()
    assert "/a b" not in recorded
    assert present_command(recorded).endswith(" --data 'c d' --recipe-output x --lr=f")
    assert "out" not in present_command(recorded).replace("--recipe-output", "")
    assert "results" not in present_command(recorded)
