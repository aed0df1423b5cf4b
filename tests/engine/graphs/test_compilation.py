"""torch.compile: sizes of a progressive schedule compiled ahead, none compiled again, recompilations named when they come."""

from __future__ import annotations

import types

import pytest
import torch

from engine.config.command_line import load_config
from engine.config.options import CompileConfig, ConfigError, ProgressiveConfig
from engine.distributed.communicator import Communicator
from engine.graphs.compilation import (
    RecompileWatch,
    check_cuda_graphs,
    compile_ahead,
    compiled,
    prepare_compiler,
)
from engine.training.assembly import assemble, assemble_step
from engine.training.compiling_ahead import report_recompiles
from engine.training.schedules import resolution_at
from engine.training.trainer import Trainer
from inception import create_model
from launch.environment import Environment
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


def test_small_kernels_are_launched_together_if_wanted_in_every_mode(monkeypatch):
    given = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: given.append(options))
    for mode in ("default", "max-autotune"):
        for combo_kernels in (False, True):
            compiled(torch.nn.Identity(), CompileConfig(enabled=True, mode=mode, combo_kernels=combo_kernels))
    assert given[0] == {"dynamic": False, "mode": "default"}
    assert given[1] == {"dynamic": False, "options": {"combo_kernels": True}}
    assert given[2] == {"dynamic": False, "mode": "max-autotune"}
    assert given[3]["options"]["combo_kernels"]
    assert given[3]["options"]["max_autotune"]  # torch's own options of that mode
    assert "mode" not in given[3]


@pytest.mark.parametrize(("scope", "least"), [("step", 6), ("block", 3 * 2 * 12)])
def test_there_is_room_for_every_graph(scope, least, tmp_path, monkeypatch):
    """Of Inception-v3's stages, for training and evaluation at three sizes; beyond it torch would run uncompiled in silence."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with torch.device("meta"):
        network = create_model("inception_v3", 10)
    assert len(network.stages) == 12
    with torch._dynamo.config.patch(recompile_limit=1, accumulated_recompile_limit=1):
        prepare_compiler(CompileConfig(enabled=True, scope=scope), 3, network)
        assert least <= torch._dynamo.config.recompile_limit <= torch._dynamo.config.accumulated_recompile_limit
        prepare_compiler(CompileConfig(enabled=True, scope=scope), 3, network, network)  # as a student and its teacher
        assert 2 * least <= torch._dynamo.config.recompile_limit


def test_cuda_graphs_do_not_accumulate_gradients():
    gpu, recording = torch.device("cuda", 0), CompileConfig(enabled=True, mode="reduce-overhead")
    with pytest.raises(ConfigError, match=r"reduce-overhead uses CUDA graphs.* 4 micro-batches: choose default or"):
        check_cuda_graphs(recording, 4, gpu)
    check_cuda_graphs(recording, 1, gpu)
    check_cuda_graphs(recording, 4, torch.device("cpu"))
    check_cuda_graphs(CompileConfig(enabled=True, mode="max-autotune-no-cudagraphs"), 4, gpu)
    check_cuda_graphs(CompileConfig(enabled=False, mode="max-autotune"), 4, gpu)


def test_cuda_graphs_are_of_the_whole_step():
    gpu, stages = torch.device("cuda", 0), CompileConfig(enabled=True, mode="max-autotune", scope="block")
    with pytest.raises(ConfigError, match=r"max-autotune uses CUDA graphs.* choose --compile\.scope step"):
        check_cuda_graphs(stages, 1, gpu)
    check_cuda_graphs(stages, 1, torch.device("cpu"))
    check_cuda_graphs(CompileConfig(enabled=True, scope="block"), 4, gpu)


@pytest.mark.gpu
def test_steps_played_as_cuda_graphs_compute_what_launched_ones_do():
    """Our kernels among them: losses, weights and statistics, over steps that warm up, record and play."""
    launched, played = (six_steps(mode, torch.device("cuda", 0)) for mode in ("default", "reduce-overhead"))
    for ours, theirs in zip(launched, played):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=2e-3)


def six_steps(mode: str, device: torch.device) -> list[torch.Tensor]:
    """Losses of six steps of the miniature, and its weights and statistics after them."""
    options = {
        "network.name": "debug",
        "network.dropout": 0.0,
        "precision": "fp32",
        "compile.enabled": True,
        "compile.mode": mode,
    }
    config = load_config([part for name, value in options.items() for part in (f"--{name}", str(value).lower())])
    torch.manual_seed(0)
    config.data.batch_size = config.data.global_batch_size = 16
    step = assemble_step(config, Communicator(Environment(), device), 10)
    step.network.train()
    step.parallelism.set_learning_rate(0.02)
    images = torch.randint(0, 256, (6, 16, 32, 32, 3), dtype=torch.uint8, device=device).permute(0, 1, 4, 2, 3)
    labels = torch.arange(16, device=device) % 10
    values = []
    for number in range(6):
        step.train_step.begin(number)
        step.train_step.accumulate(images[number], labels)
        values.append(step.train_step.update()[0][0])
    return [torch.stack(values), *(tensor.detach().clone() for tensor in step.network.state_dict().values())]


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


def compiled_as_plain(run_command, tiny_run, tmp_path, **options) -> list[dict]:
    """Trains twice, the second time compiled to machine code, to the same losses; returns the second run's events."""
    assert run_command(tiny_run("plain", **options)).returncode == 0
    done = run_command(tiny_run("compiled", compile__enabled="true", compile__cache=tmp_path / "cache", **options))
    assert done.returncode == 0, done.stderr
    assert any((tmp_path / "cache").iterdir())
    plain, fast = computed(tmp_path / "plain"), computed(tmp_path / "compiled")
    assert [row["loss"] for row in fast] == pytest.approx([row["loss"] for row in plain], rel=1e-2)
    return rows(tmp_path / "compiled", "event")


def test_a_compiled_run_computes_what_the_plain_one_does(run_command, tiny_run, tmp_path):
    events = compiled_as_plain(run_command, tiny_run, tmp_path, data__resolution=24, evaluation__resolution=24)
    assert [(event["event"], event["sizes"]) for event in events] == [("compiled", [24])]


# Two sizes and evaluation at a third: compiled before the first step, nothing compiled again.
PROGRESSIVE = {
    "progressive__start": 24,
    "progressive__end_epoch": 1,
    "progressive__multiple": 4,
    "evaluation__resolution": 40,
}


@pytest.mark.soak
def test_a_compiled_progressive_run_computes_what_the_plain_one_does(run_command, tiny_run, tmp_path):
    events = compiled_as_plain(run_command, tiny_run, tmp_path, **PROGRESSIVE)
    assert [(event["event"], event["sizes"]) for event in events] == [("compiled", [24, 32])]


def test_the_graphs_of_a_progressive_run_compute_what_the_plain_one_does(tiny_run, tmp_path, monkeypatch):
    """Without code generation, which takes a minute for each size."""
    in_full = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, mode=None, **how: in_full(module, backend="aot_eager", **how))
    for name, enabled in (("plain", "false"), ("compiled", "true")):
        arguments = tiny_run(name, compile__enabled=enabled, compile__cache=tmp_path / "cache", **PROGRESSIVE)[1:]
        assert Trainer(assemble(load_config(arguments))).fit().reason == "completed"
    events = rows(tmp_path / "compiled", "event")
    assert [(event["event"], event["sizes"]) for event in events] == [("compiled", [24, 32])]
    plain, graphs = computed(tmp_path / "plain"), computed(tmp_path / "compiled")
    assert [row["loss"] for row in graphs] == pytest.approx([row["loss"] for row in plain], rel=1e-4)
