"""Planes are measured beside JPEGs; without a GPU, or where it cannot resize them, that part is named and not measured on the
CPU instead. What would cross to it is counted all the same."""

import pytest

from benchmarks.reporting.results import read_results
from benchmarks.studies import planes_on_gpu
from pipelines.prepare import main


def prepared(photos, output, *options):
    arguments = ["folder", photos, "--to", "shards", "--output", output, *options]
    assert main([str(argument) for argument in arguments], None) == 0


@pytest.mark.parametrize(("device", "why"), [
    ("cpu", "no GPU here"), ("cuda", "planes_on_device is set: the device is no GPU"),
])  # fmt: skip
def test_stores_are_measured_and_what_no_gpu_resizes_is_named(tmp_path, monkeypatch, device, why):
    build = planes_on_gpu.build_loader
    monkeypatch.setattr(planes_on_gpu, "prepare_shards", prepared)
    monkeypatch.setattr(planes_on_gpu, "DEVICE", device)
    monkeypatch.setattr(
        planes_on_gpu, "build_loader", lambda data, plan, name, _, **how: build(data, plan, name, "cpu", **how)
    )
    small = ["--images", "80", "--batch-size", "8", "--resolution", "32", "--windows", "1", "--workers", "1"]
    assert planes_on_gpu.main([*small, "--output", str(tmp_path)]) == 0
    (result,) = read_results(tmp_path)
    rates = {row.case["what"]: row.value for row in result["rows"] if row.metric == "images/s"}
    assert rates.keys() == {planes_on_gpu.JPEGS, planes_on_gpu.PLANES, planes_on_gpu.ON_GPU}
    assert rates[planes_on_gpu.JPEGS] > 0
    assert rates[planes_on_gpu.PLANES] > 0
    assert rates[planes_on_gpu.ON_GPU] is None
    assert any(why in (row.failure or "") for row in result["rows"])
    crossing = {row.case["what"]: row.value for row in result["rows"] if row.metric == "kB an image that cross"}
    assert crossing.keys() == {planes_on_gpu.PLANES, planes_on_gpu.ON_GPU}
    assert crossing[planes_on_gpu.PLANES] == 3.072
    assert 375 * 0.08 < crossing[planes_on_gpu.ON_GPU] < 375 * 500 * 1.5 / 1000 + 1  # a few rows at least, all at most
    assert not any(row.metric == "times as fast" for row in result["rows"])
