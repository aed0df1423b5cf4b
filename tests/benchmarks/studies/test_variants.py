"""Options of the step beside the plain step, on the miniature network."""

import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks.measuring.command_line import BenchmarkError
from benchmarks.measuring.workload import compile_only, compiled_at_once
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


def test_peers_are_measured_beside(tmp_path):
    arguments = ["--network", "googlenet", "--batch-size", "2", "--windows", "1", "--peers", "torchvision"]
    arguments += ["--set", "data.resolution=32", "network.width=0.25"]
    assert variants.main([*QUICK, *arguments, "--variants", "network.fuse=true", "--output", str(tmp_path)]) == 0
    rows = read_results(tmp_path)[0]["rows"]
    assert {row.case["variant"] for row in rows} == {"plain", "network.fuse=true", "torchvision"}
    assert all(row.value > 0 for row in rows)
    with pytest.raises(BenchmarkError, match="timm has no googlenet"):
        variants.main([*QUICK, "--network", "googlenet", "--peers", "timm", "--output", str(tmp_path)])


def test_compiling_ahead_fills_the_cache_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    weight, runs = torch.ones(4, requires_grad=True), []
    weight.register_hook(runs.append)

    def step():
        torch.compile(lambda x: (x * weight).sin().sum(), dynamic=False)(torch.ones(4)).backward()

    for hits in (0, 2):  # forward and backward
        torch._dynamo.reset()
        counters.clear()
        with torch._inductor.config.patch(fx_graph_cache=True):
            compile_only(step)
        assert counters["inductor"]["fxgraph_cache_hit"] == hits or counters["aot_autograd"]["autograd_cache_hit"] == 1
        assert not runs
    torch._dynamo.reset()
    counters.clear()
    with torch._inductor.config.patch(fx_graph_cache=True), compiled_at_once():
        step()  # what is measured finds what was compiled ahead, whole
    assert counters["aot_autograd"]["autograd_cache_hit"] == 1
    assert len(runs) == 1


def test_mistakes_end_before_anything_is_measured(tmp_path):
    with pytest.raises(ConfigError, match=r"network\.padding"):
        variants.main([*QUICK, "--variants", "network.padding=4", "--output", str(tmp_path)])
    with pytest.raises(BenchmarkError, match="a variant is KEY=VALUE"):
        variants.main([*QUICK, "--variants", "fuse", "--output", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
