"""Planes are measured beside JPEGs; without a GPU, what it would resize is named and not measured on the CPU instead."""

import torch

from benchmarks.reporting.results import read_results
from benchmarks.studies import planes_on_gpu
from pipelines.prepare import main


def prepared(photos, output, *options):
    arguments = ["folder", photos, "--to", "shards", "--output", output, *options]
    assert main([str(argument) for argument in arguments], None) == 0


def test_stores_are_measured_and_without_a_gpu_its_part_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(planes_on_gpu, "prepare_shards", prepared)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    small = ["--images", "80", "--batch-size", "8", "--resolution", "32", "--windows", "1", "--workers", "1"]
    assert planes_on_gpu.main([*small, "--output", str(tmp_path)]) == 0
    (result,) = read_results(tmp_path)
    rates = {row.case["what"]: row.value for row in result["rows"] if row.metric == "images/s"}
    assert rates.keys() == {planes_on_gpu.JPEGS, planes_on_gpu.PLANES, planes_on_gpu.ON_GPU}
    assert rates[planes_on_gpu.JPEGS] > 0
    assert rates[planes_on_gpu.PLANES] > 0
    assert rates[planes_on_gpu.ON_GPU] is None
