"""The ffcv backend and FFCV's own loader are measured on the same file."""

import pytest

from benchmarks.reporting.results import read_results
from benchmarks.studies import ffcv_loading


def test_both_loaders_are_measured(tmp_path):
    small = ["--images", "56", "--batch-size", "8", "--resolution", "64", "--windows", "1", "--workers", "1"]
    assert ffcv_loading.main([*small, "--output", str(tmp_path)]) == 0
    (result,) = read_results(tmp_path)
    rows = {row.case["what"]: row for row in result["rows"]}
    rates = {row.case["what"]: row.value for row in result["rows"] if row.metric == "images/s"}
    ratio = rows[f"ffcv over {ffcv_loading.STOCK}"].value
    assert ratio == pytest.approx(rates["ffcv"] / rates[ffcv_loading.STOCK])
