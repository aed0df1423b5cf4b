"""--dry-run: what would be trained, in words; nothing is trained or written."""

from __future__ import annotations

import re

import pytest
import torch
import yaml

from engine.config.command_line import config_from_dict, load_config
from engine.config.options import ConfigError, LossConfig, OptimizerConfig
from engine.graphs.objective import build_objective
from engine.train import main
from engine.training.dry_run import activation_bytes, optimizer_copies
from engine.training.optimizers import create_optimizer
from inception import create_model


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
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_what_a_run_would(tiny_run):
    _, *arguments = tiny_run(data__global_batch_size=61)
    with pytest.raises(ConfigError, match="global batch of 61"):
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
