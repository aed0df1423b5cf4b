"""What fine-tuning keeps, and how fast the rest learns: each option's effect on the sample, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine import Trainer, assemble, load_config
from engine.config.options import Config, ConfigError, NetworkConfig, OptimizerConfig
from engine.training.fine_tuning import learning_rate_scales, stages_to_freeze, what_learns
from engine.training.network import build_network
from engine.training.optimizers import create_optimizer
from inception import Network, create_model
from runs import assert_same_run, newest_state, rows
from tiny import tiny_options


@pytest.fixture(scope="module")
def debug() -> Network:
    return create_model("debug", 10)


def trained(data: Path, run: Path, **options: object) -> dict:
    """The state of a run of one epoch."""
    Trainer(assemble(load_config(tiny_options(data, run, **{"schedule__epochs": 1, **options})))).fit()
    return newest_state(run)


def built(**options: object) -> Network:
    config = Config(network=NetworkConfig(name="debug", **options))
    return build_network(config, 10)


def test_stages_are_named_singly_by_ranges_and_with_commas(debug):
    assert stages_to_freeze("stem", debug) == ["stem"]
    assert stages_to_freeze("stem..inception_b", debug) == ["stem", "inception_a", "reduction_a", "inception_b"]
    assert stages_to_freeze("..reduction_a, inception_c", debug) == [
        "stem", "inception_a", "reduction_a", "inception_c",
    ]  # fmt: skip
    assert stages_to_freeze("reduction_b..", debug) == ["reduction_b", "inception_c"]
    assert stages_to_freeze("", debug) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inception_b4", "debug has no stage 'inception_b4', did you mean 'inception_b'?; its stages are stem, inception_a, "),
        ("stem..classifier", "has no stage 'classifier'"),
        ("inception_b..stem", "inception_b comes after stem in debug; write stem..inception_b"),
    ],
)  # fmt: skip
def test_a_wrong_stage_is_answered_with_those_there_are(debug, text, words):
    with pytest.raises(ConfigError) as caught:
        stages_to_freeze(text, debug)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_frozen_stages_keep_weights_and_statistics(tiny_dataset, tmp_path):
    options = {"network__freeze": "stem..reduction_a", "ema__decay": 0.9, "ema__recalibrate": 2}
    state = trained(tiny_dataset, tmp_path / "run", **options)
    before = built().state_dict()
    for name, tensor in state["network"].items():
        kept = name.startswith(("stem", "inception_a", "reduction_a"))
        changed = not torch.equal(tensor, before[name])
        assert changed != kept, name
    averaged = {**state["ema"], **state["evaluator"]["statistics"]}
    assert torch.equal(averaged["stem.0.bn.running_mean"], before["stem.0.bn.running_mean"])
    assert not any(name.startswith("stem") for name in state["optimizer"])


def test_frozen_batch_norm_stays_while_convolutions_learn(tiny_dataset, tmp_path):
    state = trained(tiny_dataset, tmp_path / "run", network__freeze_batch_norm=True)["network"]
    before = built().state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items() if ".bn." in name)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in state.items() if name.endswith("conv.weight"))


def test_training_mode_leaves_what_is_frozen_in_evaluation_mode():
    network = built(freeze="stem", freeze_batch_norm=True)
    for _ in range(2):
        assert network.training
        assert network.inception_a.training
        assert not any(module.training for module in network.stem.modules())
        assert not network.inception_a.branch1.bn.training
        network.eval()
        network.train()


def test_a_frozen_run_goes_on_to_the_last_bit(tiny_dataset, tmp_path):
    options = {"network__freeze": "stem", "optimizer__head_lr": 0.05, "optimizer__layer_decay": 0.7}
    trained(tiny_dataset, tmp_path / "whole", schedule__epochs=2, **options)
    trained(
        tiny_dataset, tmp_path / "parts", schedule__epochs=2, run__target_top1=0.001, **options
    )  # ends after one epoch
    assert len(rows(tmp_path / "parts", "eval")) == 1
    trained(tiny_dataset, tmp_path / "parts", schedule__epochs=2, **options)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_branch_may_free_what_was_frozen_and_freeze_what_was_free(tiny_dataset, tmp_path):
    first = trained(tiny_dataset, tmp_path / "first", network__freeze="stem")
    checkpoint = max((tmp_path / "first" / "checkpoints").glob("step-*.pt"))
    options = {"schedule__epochs": 2, "run__branch": checkpoint}
    second = trained(tiny_dataset, tmp_path / "second", network__freeze="inception_a", **options)
    assert not torch.equal(second["network"]["stem.0.conv.weight"], first["network"]["stem.0.conv.weight"])
    name = "inception_a.branch1.conv.weight"
    assert torch.equal(second["network"][name], first["network"][name])


def test_rates_fall_from_stage_to_stage_and_the_head_has_its_own(debug):
    options = OptimizerConfig(lr=0.1, head_lr=0.5, layer_decay=0.5)
    scales = learning_rate_scales(debug, options)
    assert [scales[name] for name in debug.stages] == [0.5**n for n in range(6, 0, -1)]
    assert scales["classifier"] == scales["auxiliary1"] == 5.0
    groups = create_optimizer(debug, options).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(debug.parameters()))
    of = {parameter: group.get("lr_scale", 1.0) for group in groups for parameter in group["params"]}
    assert of[debug.stem[0].conv.weight] == of[debug.stem[0].bn.bias] == 0.5**6
    assert of[debug.classifier.bias] == 5.0
    decays = {group["weight_decay"] for group in groups if debug.classifier.weight in set(group["params"])}
    assert decays == {options.weight_decay}


def test_poolings_are_no_step_of_the_decay():
    with torch.device("meta"):
        network = create_model("googlenet", 10, auxiliary=False)
    scales = learning_rate_scales(network, OptimizerConfig(layer_decay=0.5))
    assert scales["inception_3b"] == scales["inception_4a"] / 2


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "lars", "lamb"])
def test_a_step_moves_each_part_at_its_rate(tiny_dataset, tmp_path, name):
    """With a head that hardly learns, it hardly moves; the rest does."""
    state = trained(tiny_dataset, tmp_path / "run", optimizer__name=name, optimizer__lr=0.01, optimizer__head_lr=1e-9)[
        "network"
    ]
    before = built().state_dict()
    head, stem = ((state[n] - before[n]).abs().max() for n in ("classifier.weight", "stem.0.conv.weight"))
    assert head < 1e-6 < 1e-5 < stem


def test_what_is_frozen_and_what_learns_otherwise_is_said():
    config = Config(network=NetworkConfig(name="debug", freeze="stem", freeze_batch_norm=True))
    config.optimizer = OptimizerConfig(lr=0.1, head_lr=0.2, layer_decay=0.5)
    lines = list(what_learns(build_network(config, 10), config))
    assert lines[0].startswith("frozen: stem, every batch normalisation (0.00 of 0.57 M parameters, as drawn unless")
    assert lines[1] == "learning rates: of the heads 2 times the run's, of inception_a 0.03125 times"
    assert list(what_learns(built(), Config())) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--network.freeze_batch_norm", "true", "--ema.recalibrate", "3"], "leave out one of them"),
        (["--optimizer.layer_decay", "1.5"], "--optimizer.layer_decay must be above 0 and at most 1"),
        (["--optimizer.head_lr", "0"], "--optimizer.head_lr must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options, words):
    with pytest.raises(ConfigError, match=words):
        load_config([*options, "--recipe", "sample"])
