"""--dry-run: what would be trained, in words; nothing is trained or written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.config.command_line import config_from_dict, load_config
from engine.config.options import ConfigError, LossConfig, OptimizerConfig
from engine.graphs.objective import build_objective
from engine.runs.environment_record import describe_machine
from engine.train import main
from engine.training import expected_time
from engine.training.dry_run import activation_bytes, optimizer_copies
from engine.training.optimizers import create_optimizer
from inception import create_model
from launch.environment import Environment


@pytest.fixture(autouse=True)
def one_thread():
    """What a run sets for a process of its own must not stay in the tests' process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_dry_run_says_all_and_writes_nothing(tiny_run, tmp_path, capsys):
    _, *arguments = tiny_run(data__global_batch_size=32, optimizer__lr_batch_size=16)
    before = sorted(tmp_path.rglob("*"))
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    tree, _, rest = said.partition("data: 96 images")
    assert config_from_dict(yaml.safe_load(tree)) == load_config(arguments)
    assert "to train on, 30 to evaluate, 10 classes; " in rest
    assert "  images: 16 x 3 x 32 x 32\n  stem: 16 x 32 x 16 x 16\n" in rest
    assert "  classifier: 16 x 10\n" in rest
    assert "a step: 32 images, on each of 1 rank 2 micro-batches of 16; 3 steps an epoch, 6 in all; sgd" in rest
    assert "peak learning rate of 0.04" in rest
    assert re.search(r"memory of a rank, about: \d+\.\d\d GiB = 4 x 0\.00\d of weights", rest)
    assert re.search(r"^time: not measured on this machine|^time, about: ", said, re.MULTILINE)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_what_a_run_would(tiny_run):
    _, *arguments = tiny_run(data__global_batch_size=1)
    with pytest.raises(ConfigError, match="batch normalisation needs more than 1 image"):
        main([*arguments, "--dry-run"])


def test_activations_grow_with_the_image():
    objective = build_objective(create_model("debug", 10), LossConfig(), dtype=torch.float32)
    small, large = (activation_bytes(objective, size, torch.device("cpu")) for size in (32, 64))
    assert large == pytest.approx(4 * small, rel=0.15)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "lars", "lamb"])
def test_optimizers_keep_as_many_numbers_as_is_said(name):
    network = torch.nn.Linear(30, 10)
    options = OptimizerConfig(name=name)
    optimizer = create_optimizer(network, options)
    network(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    kept = sum(
        value.numel()
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.ndim
    )
    assert kept == optimizer_copies(options) * sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture
def results(monkeypatch, tmp_path):
    """``results(**changes)`` leaves what throughput.py measured of the debug network where the command is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(expected_time, "_ROOT", tmp_path / "clone")
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)

    def leave(
        rate=100.0,
        stamp="20260101T000000Z",
        setting="fp32, eager, batch 16",
        machine=None,
        command="python x",
        **options,
    ):
        row = {
            "case": {"network": "debug", "part": "end to end", "of": "ours, native", "setting": setting},
            "metric": "images/s",
            "value": rate,
        }
        given = [part for key, value in options.items() for part in (f"--{key.replace('__', '.')}", value)]
        content = {"machine": {"id": machine or describe_machine()["id"]}, "time": stamp, "command": command}
        tried = {**row, "case": {**row["case"], "setting": f"{setting}, --compile.enabled true"}, "value": 1e6}
        content |= {"options": {"set": given}, "rows": [row, tried]}
        (folder / f"throughput-{stamp}.json").write_text(json.dumps(content))

    return leave


def expected(**options: Any) -> str:
    arguments = {
        "network.name": "debug",
        "precision": "fp32",
        "schedule.epochs": "5",
        "data.batch_size": "16",
    } | options
    config = load_config([part for key, value in arguments.items() for part in (f"--{key}", str(value))])
    known = {"on_cpu": True, "own_size": 32, "backend": "native", "batch": 16}
    return expected_time.time_expected(config, torch.float32, [32], 2400, Environment(), **known)


def test_the_time_is_told_by_the_newest_measurement_of_the_same_training_on_this_machine(results):
    results(rate=50.0)
    results(rate=100.0, stamp="20260102T000000Z")
    results(rate=1.0, stamp="20260103T000000Z", machine="another")
    results(rate=1.0, stamp="20260104T000000Z", setting="bf16, eager, batch 16")
    results(rate=1.0, stamp="20260105T000000Z", setting="fp32, default, batch 16")
    results(rate=1.0, stamp="20260106T000000Z", data__resolution="64")
    results(rate=1.0, stamp="20260107T000000Z", network__width="2.0")
    results(rate=1.0, stamp="20260108T000000Z", command="torchrun --nproc_per_node=2 x")
    results(rate=1.0, stamp="20260109T000000Z", data__resolution="null")
    results(rate=1.0, stamp="20260110T000000Z", distillation__teacher="runs/v4")
    for number, other in enumerate(("[]", '{"machine": {"id": 1}}', '{"rows": [{}]}')):
        (Path("benchmarks/results") / f"throughput-other{number}.json").write_text(other)
    said = expected()
    assert said.startswith(
        "time, about: 2.0 minutes = 5 epochs of 2,400 images at 100 a second, as measured on a machine like this"
    )
    assert (
        "(debug, fp32, eager, 32 pixels, 1 process, native loader, batch 16; throughput-20260102T000000Z.json)" in said
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--networks debug --precisions fp32 --compile eager --batch-sizes 16"),
        (
            {"network.width": 2, "compile.enabled": "true"},
            "--networks debug --precisions fp32 --compile default --batch-sizes 16 --set network.width=2",
        ),
    ],
)
def test_without_a_measurement_there_is_no_number_but_the_command_that_measures(results, options, words):
    results(setting="bf16, eager, batch 16")
    (Path("benchmarks/results") / "throughput-cut.json").write_text("{")
    said = expected(**options)
    assert said.startswith("time: not measured on this machine (debug, fp32, ")
    assert said.endswith(f"; this does it: python benchmarks/throughput.py {words}")


def test_an_option_of_the_network_is_found_as_it_was_set(results):
    results(network__fuse="true", network__width="2.0")
    assert "time, about" in expected(**{"network.fuse": "true", "network.width": 2})
    results(network__fuse="true", network__width="2")
    assert "time, about" in expected(**{"network.fuse": "true", "network.width": 2})
    assert "time: not measured" in expected()
