"""The stores are measured beside each other and beside other loaders; what the budget has no room for is named."""

import pytest

from benchmarks.measuring.budget import Budget
from benchmarks.reporting.results import read_results
from benchmarks.studies import stores


class OnlyLoading(Budget):
    """Room for the first part alone: the others start a process for every figure."""

    def prepared(self, what, prepare):
        if what.startswith("loading"):
            return super().prepared(what, prepare)
        self.left_out.append(what)
        return None


def test_every_loader_is_measured_and_what_is_left_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "Budget", OnlyLoading)
    small = ["--images", "160", "--batch-size", "8", "--resolution", "64", "--windows", "1", "--workers", "1"]
    assert stores.main([*small, "--qualities", "85", "--output", str(tmp_path)]) == 0
    (result,) = read_results(tmp_path)
    rates = {row.case.get("what"): row.value for row in result["rows"] if row.metric == "images/s"}
    assert rates.keys() == {
        "jpeg", "jpeg by dali", "windows", "windows by dali", "planes", stores.RAW, stores.WHOLE, stores.TORCHVISION,
        stores.DALI,
    }  # fmt: skip
    ratios = {row.case["what"]: row.value for row in result["rows"] if row.metric == "times as fast"}
    assert ratios["windows over jpeg"] == pytest.approx(rates["windows"] / rates["jpeg"])
    assert ratios["windows by dali over jpeg by dali"] == pytest.approx(
        rates["windows by dali"] / rates["jpeg by dali"]
    )
    chosen = {row.case["store"]: row.case for row in result["rows"] if row.metric == "images/s a core"}
    assert chosen["planes"]["read by"] == "native"
    assert any("preparing at quality 85, disks at quality 85, many cores" in note for note in result["notes"])
