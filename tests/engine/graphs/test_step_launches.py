"""What torch.compile plans for a GPU that is not there: fewer launches and bytes with our options, and not more than before."""

from __future__ import annotations

import json

import pytest
import torch

import step_launches
from benchmarks.reporting.results import read_results
from engine.config.options import OptimizerConfig
from inception import create_model
from update_launches import launches_over, update_launches

SCRIPT = "tests/support/step_launches.py"
# Of the debug network with all options, batch 64, 64 pixels: what is counted may fall and may not rise.
LAUNCHES, MEGABYTES = (97 if torch.__version__ >= "2.15" else 109), 14.3  # torch 2.11 fuses less


def test_launches_and_bytes_of_a_step_do_not_rise(run_command):
    options = ["--alone", "--networks", "debug", "--ways", "fused", "--batch-size", "64", "--resolution", "64"]
    done = run_command([SCRIPT, *options])
    assert done.returncode == 0, done.stderr[-4000:]
    counted = json.loads(done.stdout.splitlines()[-1])
    totals, kernels = counted["totals"], counted["kernels"]
    assert totals["launches"] <= LAUNCHES
    assert totals["MB an image"] <= MEGABYTES
    assert totals["launches"] == totals["launches forward"] + totals["launches backward"]
    # 14 convolutions forward and backward, and two classifiers; every level of a block is normalised in one launch of each.
    assert totals["convolutions and matrix products"] == 34
    ours = ("statistics_kernel", "moments_kernel", "normalise_kernel", "sums_kernel", "total_kernel", "gradient_kernel")
    assert {kernels[name][0] for name in ours} == {11}
    assert not [name for name in kernels if "clone" in name and "triton_kernel_wrapper" in name]  # a copy of a result


def test_an_operation_over_many_tensors_launches_what_torchs_metadata_has_room_for():
    assert launches_over([1], 1) == 1
    assert launches_over([10] * 110, 1) == 1
    assert launches_over([10] * 111, 1) == 2
    assert launches_over([10] * 48, 3) == 1
    assert launches_over([10] * 97, 3) == 3
    assert launches_over([320 * 65536], 2) == 1
    assert launches_over([320 * 65536 + 1, 5], 2) == 2


def test_updates_of_all_weights_are_a_handful_of_launches():
    network = create_model("debug", 10, width=0.25)
    sgd, rmsprop = (update_launches(network, OptimizerConfig(name=name)) for name in ("sgd", "rmsprop"))
    assert sgd == {"optimizer": 2, "average": 2}
    assert rmsprop["average"] == 2
    assert 10 < rmsprop["optimizer"] < 40


def test_the_table_of_networks_and_ways(tmp_path, monkeypatch, capsys):
    counted = {"totals": {"MB an image": 3.0, "launches": 7}, "kernels": {"sums_kernel": (7, 3.0)}}
    asked = []

    def in_a_process(network, way, options):
        asked.append((network, way))
        return counted

    monkeypatch.setattr(step_launches, "_in_a_process", in_a_process)
    assert step_launches.main(["--networks", "inception_v3", "debug", "--output", str(tmp_path)]) == 0
    ways = [("inception_v3", way) for way in ("plain", "fused", "timm")]
    assert asked == [*ways, ("debug", "plain"), ("debug", "fused")]
    rows = {(row.case["network"], row.case["way"], row.metric): row.value for row in read_results(tmp_path)[0]["rows"]}
    assert rows["inception_v3", "timm", "launches"] == 7
    assert rows["debug", "fused", "us an image on an H100 at least"] == pytest.approx(1.0)
    assert rows["debug", "fused", "us an image on an H200 at least"] == pytest.approx(3.0 / 4.3)
    assert "sums_kernel" in capsys.readouterr().out
