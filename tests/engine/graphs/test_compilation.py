"""torch.compile: sizes of a progressive schedule compiled ahead, none compiled again, recompilations named when they come."""

from __future__ import annotations

import types

import pytest
import torch

from engine.config.command_line import load_config
from engine.config.options import CompileConfig, ConfigError, ProgressiveConfig
from engine.graphs.compilation import RecompileWatch, compile_ahead, compiled
from engine.training.compiling_ahead import report_recompiles
from engine.training.schedules import resolution_at
from runs import computed, rows


def test_sizes_grow_in_a_line_of_multiples():
    options = ProgressiveConfig(start=160, begin_epoch=2, end_epoch=8, multiple=32)
    assert [resolution_at(epoch, 256, options) for epoch in range(10)] == [160] * 3 + [192] * 2 + [224] * 2 + [256] * 3
    assert resolution_at(0, 299, ProgressiveConfig()) == 299
    assert resolution_at(7, 299, ProgressiveConfig(start=160, begin_epoch=0, end_epoch=8)) == 288
    assert resolution_at(8, 299, ProgressiveConfig(start=160, begin_epoch=0, end_epoch=8)) == 299
    with pytest.raises(ConfigError, match=r"progressive\.end_epoch"):
        load_config(["--progressive.start", "16", "--progressive.end_epoch", "400"])


def test_a_recompilation_is_counted_with_its_cause():
    watch = RecompileWatch()
    try:
        function = torch.compile(lambda x: x * 2, dynamic=False, backend="eager")
        function(torch.ones(3))
        function(torch.ones(3))
        assert watch.causes == []
        function(torch.ones(4))
    finally:
        watch.close()
    assert len(watch.causes) == 1
    assert "size mismatch" in watch.causes[0]
    assert "expected 3, actual 4" in watch.causes[0]


def test_an_epochs_recompilations_are_reported_once_with_their_causes():
    watch = types.SimpleNamespace(causes=["forward: size mismatch at index 0", "forward: grad mode"])
    events, lines = [], []
    run = types.SimpleNamespace(
        recorder=types.SimpleNamespace(event=lambda name, reason: events.append((name, reason))),
        monitor=types.SimpleNamespace(say=lines.append),
    )
    report_recompiles(watch, run)
    report_recompiles(watch, run)
    assert events == [("recompiled", "forward: size mismatch at index 0"), ("recompiled", "forward: grad mode")]
    assert lines == ["torch.compile had to compile 2 graphs again in this epoch: forward: size mismatch at index 0"]


def test_compiling_ahead_leaves_statistics_alone():
    layer = torch.nn.BatchNorm2d(2)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    compile_ahead(lambda size: layer(torch.randn(2, 2, size, size)), layer, [4, 8])
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_blocks_compile_in_place_under_their_own_names():
    from inception import create_model

    network = create_model("debug", 10)
    names = list(network.state_dict())
    objective = torch.nn.Module()
    objective.network = network
    assert compiled(objective, CompileConfig(enabled=True, scope="block")) is objective
    assert list(network.state_dict()) == names
    assert network.stem._compiled_call_impl is not None


def test_a_compiled_progressive_run_computes_what_the_plain_one_does(run_command, tiny_run, tmp_path):
    """Two sizes and evaluation at a third: compiled before the first step, nothing compiled again, the same losses."""
    options = {
        "progressive__start": 24,
        "progressive__end_epoch": 1,
        "progressive__multiple": 4,
        "evaluation__resolution": 40,
    }
    assert run_command(tiny_run("plain", **options)).returncode == 0
    done = run_command(tiny_run("compiled", compile__enabled="true", compile__cache=tmp_path / "cache", **options), 900)
    assert done.returncode == 0, done.stderr
    events = rows(tmp_path / "compiled", "event")
    assert [(event["event"], event["sizes"]) for event in events] == [("compiled", [24, 32])]
    assert any((tmp_path / "cache").iterdir())
    plain, fast = computed(tmp_path / "plain"), computed(tmp_path / "compiled")
    assert [row["loss"] for row in fast] == pytest.approx([row["loss"] for row in plain], rel=1e-2)
