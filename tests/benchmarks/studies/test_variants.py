"""Options of the step beside the plain step, on the miniature network."""

import pytest

from benchmarks.measuring.command_line import BenchmarkError
from benchmarks.reporting.results import read_results
from benchmarks.studies import variants
from engine.config.options import ConfigError

QUICK = ["--network", "debug", "--batch-size", "4", "--windows", "2", "--seconds", "0.02", "--precision", "fp32"]


def test_every_variant_is_measured_beside_the_plain_step(tmp_path):
    wanted = ["network.pad_channels=4", "network.fuse=true,network.fused_norm=true"]
    assert variants.main([*QUICK, "--variants", *wanted, "--output", str(tmp_path)]) == 0
    result = read_results(tmp_path)[0]
    measured = {(row.case["variant"], row.metric): row.value for row in result["rows"]}
    assert all(value > 0 for value in measured.values())
    assert {name for name, metric in measured if metric == "images/s"} == {"plain", *wanted}
    assert {name for name, metric in measured if metric == "times the plain step"} == set(wanted)


def test_mistakes_end_before_anything_is_measured(tmp_path):
    with pytest.raises(ConfigError, match=r"network\.padding"):
        variants.main([*QUICK, "--variants", "network.padding=4", "--output", str(tmp_path)])
    with pytest.raises(BenchmarkError, match="a variant is KEY=VALUE"):
        variants.main([*QUICK, "--variants", "fuse", "--output", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
