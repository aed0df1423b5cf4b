"""The one tree of options: recipes, command line, help, and what is refused."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import reduce
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

from engine import evaluate, export, predict
from engine.config.bounds import Bounds, bounds_of
from engine.config.checks import check_values
from engine.config.command_line import config_from_dict, load_config
from engine.config.options import Config, ConfigError, OptimizerConfig, leaves
from engine.config.recipes import RECIPES
from engine.config.same_run import differences
from inception import create_model


def test_no_option_gives_the_sample_recipe():
    config = load_config([])
    assert config.network.name == "debug"
    assert config.run.dir == "runs/sample"
    assert config.data.path == ""


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_complete_and_names_a_network(recipe):
    config = load_config(["--recipe", recipe.stem, "--data.path", "unread"])
    assert config.run.dir == f"runs/{recipe.stem}"
    create_model(config.network.name, 10, width=0.1)
    assert recipe.read_text().startswith("#"), "a recipe says what it is and where its values come from"


def test_the_command_line_overrides_the_recipe_wherever_it_stands(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("optimizer: {lr: 0.3, momentum: 0.8}\ndata: {crop_scale: [0.2, 0.9]}\n")
    config = load_config(
        ["--optimizer.lr", "0.7", "--recipe", str(recipe), "--data.global_batch_size=96", "--data.path=unread"]
    )
    assert (config.optimizer.lr, config.optimizer.momentum) == (0.7, 0.8)
    assert (config.data.crop_scale, config.data.global_batch_size) == ((0.2, 0.9), 96)
    assert config.run.dir == "runs/mine"


def test_the_resolved_tree_reads_back_as_itself():
    config = load_config(["--run.target_top1", "61.5", "--data.quarantine", "bad.txt"])
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_help_shows_every_option_with_its_default_and_bounds(capsys):
    with pytest.raises(SystemExit) as stop:
        load_config(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for key, _ in leaves(Config()):
        assert re.search(rf"--{re.escape(key)}[ ,]", text), key  # from Python 3.13 on the value stands behind all names
    for key, bounds in bounds_of(Config()):
        assert f"Bounds: {bounds}." in text.rpartition(f" --{key} ")[2].partition(" --")[0], key
    assert "[seconds]" in text
    assert "default: 0.9" in text


def help_about(*words: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        load_config(["--help", *words])
    return printed.getvalue()


def test_help_has_the_sections_in_the_order_of_a_runs_questions():
    sections = re.findall(r"^([a-z.]+): [^\n]*:$", help_about(), re.MULTILINE)
    assert sections[:4] == ["data", "network", "schedule", "optimizer"]
    assert set(sections) == {key.rpartition(".")[0] for key, _ in leaves(Config())} - {""}
    assert " CONFIG" not in help_about()
    assert "Literal" not in help_about()


def test_help_of_an_evaluation_is_grouped_too(capsys):
    with pytest.raises(SystemExit):
        evaluate.parse(["--help"])
    groups = re.findall(r"^([a-z ]+):$", capsys.readouterr().out, re.MULTILINE)
    assert groups[1:] == [
        "what is evaluated",
        "on what",
        "what computes",
        "how images are shown to the network",
        "what is written",
    ]


def test_help_about_a_word_shows_the_options_about_it():
    assert re.findall(r"^  --([\w.]+)", help_about("ema"), re.MULTILINE) == [
        "ema.decay",
        "ema.half_life",
        "ema.recalibrate",
    ]
    shown = re.findall(r"^  --([\w.]+)", help_about("learning-rate"), re.MULTILINE)
    assert {"optimizer.lr", "schedule.warmup_epochs"} <= set(shown)
    assert "data.path" not in shown
    assert "--network.width " in help_about("network.width", "ema")
    with pytest.raises(ConfigError, match=r"no option is about 'epcohs'; the nearest is --schedule\.epochs"):
        load_config(["--help", "epcohs"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--optimizer.learning_rate", "1"],
            "option --optimizer.learning_rate does not exist; the nearest is --optimizer.lr ",
        ),
        (["--schedule.epochs", "1.5"], "option --schedule.epochs: '1.5' is not a whole number"),
        (["--precision", "fp8"], "option --precision: 'fp8' is not one of auto, fp32, bf16, fp16"),
        (["--data.crop_scale", "[0.5,0.2]"], "the smaller first"),
        (["--ema.decay", "1.5"], "option --ema.decay must be at least 0 and below 1, not 1.5"),
        (["--optimizer.clip_norm", "-1"], "option --optimizer.clip_norm must be above 0"),
        (["--optimizer.momentum", "1.5"], "option --optimizer.momentum must be at least 0 and below 1"),
        (["--optimizer.lr", ".inf"], "option --optimizer.lr must be above 0"),
        (["--data.crop_scale", "[0.1,.nan]"], "option --data.crop_scale must be above 0 and at most 1"),
        (["--schedule.warmup_epochs", "12.5"], "must not exceed the run's --schedule.epochs 12, not be 12.5"),
        (["--progressive.start", "64", "--progressive.end_epoch", "2"], "not exceed the full size of 32 pixels"),
        (["--network.name=inception_v3", "--progressive.start=300", "--progressive.end_epoch=2"], "of 299 pixels"),
        (
            ["--progressive.start", "16", "--progressive.end_epoch", "13"],
            "option --progressive.end_epoch must lie between",
        ),
        (["--ema.recalibrate", "5", "--network.batch_norm", "false"], "option --ema.recalibrate 5 measures statistics"),
        (["--recipe", "nothing.yaml"], "recipe nothing.yaml cannot be read"),
        (["extra"], "extra"),
    ],
)
def test_what_is_refused_names_the_option(arguments, message):
    with pytest.raises(ConfigError) as refused:
        load_config(arguments)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer: {lr: 0.3, lr: 0.4}\n", "key lr stands in line 1 and again in line 1"),
        (
            "optimizer:\n  lr: 0.3\ndata: {flip: 0}\noptimizer:\n  momentum: 0.8\n",
            "key optimizer stands in line 1 and again",
        ),
        ("data:\n  'flip': 0\n  flip: 1\n", "key flip stands in line 2 and again in line 3"),
        ("optimizer: {lr: 0.3}\noptimizer.lr: 0.4\n", "key optimizer.lr is given twice"),
        ("shared: &shared {lr: 0.3}\n", "key shared.lr does not exist"),
    ],
)
def test_a_key_that_stands_twice_in_a_recipe_is_refused(text, words, tmp_path):
    recipe = tmp_path / "twice.yaml"
    recipe.write_text(text)
    with pytest.raises(ConfigError, match=f"recipe {recipe}: {re.escape(words)}"):
        load_config(["--recipe", str(recipe)])


def test_a_recipe_may_still_take_over_a_mapping_and_change_it(tmp_path):
    recipe = tmp_path / "merged.yaml"
    recipe.write_text("data: &data {path: x, flip: 0.1}\nnetwork: {name: debug}\n")
    assert load_config(["--recipe", str(recipe)]).data.flip == 0.1
    recipe.write_text("data: {<<: {path: x, flip: 0.1}, flip: 0.2}\n")
    assert load_config(["--recipe", str(recipe)]).data.flip == 0.2


@pytest.mark.parametrize(
    ("parse", "arguments", "words"),
    [
        (evaluate.parse, ["--data.workers", "5000"], "--data.workers must be from 0 to 1024, not 5000"),
        (evaluate.parse, ["--data.batch_size", "0"], "--data.batch_size must be from 1 to 65536, not 0"),
        (evaluate.parse, ["--data.batch_size", "99999999"], "--data.batch_size must be from 1 to 65536"),
        (evaluate.parse, ["--data.resolution", "100000"], "--data.resolution must be from 0 to 8192"),
        (evaluate.parse, ["--crop_fraction", "nan"], "--crop_fraction must be from 0 to 1, not nan"),
        (predict.parse, ["x.jpg", "--batch_size", "99999999"], "--batch_size must be from 1 to 65536"),
        (predict.parse, ["x.jpg", "--top", "0"], "--top must be from 1 to 1000000, not 0"),
        (predict.parse, ["x.jpg", "--resolution", "100000"], "--resolution must be from 0 to 8192"),
        (export.parse, ["--format", "onnx", "--output", "x.onnx", "--resolution", "-1"], "--resolution must be from 0"),
    ],
)
def test_numbers_of_the_other_commands_have_bounds_too(parse, arguments, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse(["--weights", "w", *arguments])


def test_an_unknown_key_of_a_recipe_is_named_with_its_file(tmp_path):
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text("optimizer: {momentun: 0.8}\n")
    with pytest.raises(ConfigError, match=r"wrong.yaml: key optimizer.momentun .* nearest is optimizer.momentum"):
        load_config(["--recipe", str(recipe)])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr", "optimizer.lr"),
        ("batch-size", "data.batch_size"),
        ("data.batch-size", "data.batch_size"),
        ("optimizer.wd", "optimizer.weight_decay"),
        ("optimizer.learning_rate", "optimizer.lr"),
        ("epochs", "schedule.epochs"),
        ("run.sead", "run.seed"),
        ("recipy", "recipe"),
    ],
)
def test_an_unknown_option_is_answered_with_the_one_that_was_meant(given, meant):
    with pytest.raises(ConfigError, match=f"option --{given} does not exist; the nearest is --{meant} "):
        load_config([f"--{given}", "1"])


def types(section: type, prefix: str = "") -> Iterator[tuple[str, set]]:
    """(dotted name, the plain types that the option's type is made of) of every option."""
    for name, kind in get_type_hints(section).items():
        if is_dataclass(kind):
            yield from types(kind, f"{prefix}{name}.")
        else:
            parts = get_args(kind) or (kind,)
            yield f"{prefix}{name}", {inner for part in parts for inner in (get_args(part) or (part,))}


def changed(key: str, value: float) -> Config:
    """The defaults but for one option; where it is a pair of numbers, for its second."""
    config = Config()
    *sections, leaf = key.split(".")
    section = reduce(getattr, sections, config)
    default = getattr(section, leaf)
    setattr(section, leaf, (default[0], value) if isinstance(default, tuple) else value)
    return config


def outside(bounds: Bounds) -> set[float]:
    low = bounds.least - 1 if bounds.least is not None else bounds.above
    high = bounds.most + 1 if bounds.most is not None else bounds.below
    return {low, high, -math.inf, math.inf, math.nan}


def test_every_number_has_bounds():
    numeric = {key for key, kinds in types(Config) if kinds & {int, float}}
    assert numeric == {key for key, _ in bounds_of(Config())}
    assert len(numeric) > 40
    check_values(Config())


@pytest.mark.parametrize(
    ("key", "bounds"), list(bounds_of(Config())), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_bound_is_checked(key, bounds):
    for value in outside(bounds):
        with pytest.raises(ConfigError, match=re.escape(f"option --{key} must be {bounds}, not ")):
            check_values(changed(key, value))
    for edge in (bounds.least, bounds.most):
        if edge is not None:
            assert f"must be {bounds}" not in refusal(changed(key, edge))  # it may contradict another option


def refusal(config: Config) -> str:
    """Why the values make no sense, or nothing."""
    try:
        check_values(config)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("recipe", [path.stem for path in RECIPES.glob("*.yaml") if path.stem != "sample"])
def test_only_the_sample_recipe_means_the_embedded_dataset(recipe, tmp_path):
    with pytest.raises(ConfigError, match=f"recipe {recipe} names no dataset: add --data.path"):
        load_config(["--recipe", recipe])
    copy = tmp_path / "sample.yaml"  # by another's name, and still no sample
    copy.write_text((RECIPES / f"{recipe}.yaml").read_text())
    with pytest.raises(ConfigError, match="names no dataset"):
        load_config(["--recipe", str(copy)])
    assert load_config(["--recipe", str(RECIPES / "sample.yaml"), "--network.name", "googlenet"]).data.path == ""


def test_recipes_folder_is_part_of_the_package():
    assert Path(RECIPES, "sample.yaml").is_file()


@pytest.mark.parametrize(
    ("name", "before", "now", "told"),
    [
        ("sgd", 1.0, None, []),  # it reads none
        ("rmsprop", 1.0, None, []),  # its own
        ("rmsprop", 0.1, None, ["--optimizer.epsilon 0.1, not 1.0"]),
        ("lamb", None, 1e-6, []),
        ("adamw", None, 1e-6, ["--optimizer.epsilon None, not 1e-06"]),
    ],
)
def test_two_runs_with_the_same_epsilon_in_effect_are_the_same(name, before, now, told):
    saved, config = Config(), Config()
    saved.optimizer.name = config.optimizer.name = name
    saved.optimizer.epsilon, config.optimizer.epsilon = before, now
    assert differences(config, saved) == told


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "lars", "lamb"])
def test_a_run_of_before_its_options_had_defaults_of_their_own_goes_on(name):
    """Files of earlier versions name momentum, its form and decay for every optimizer, and no option of later ones."""
    tree = Config(optimizer=OptimizerConfig(name=name)).to_dict()
    tree["optimizer"] |= {"momentum": 0.9, "nesterov": True, "decay": 0.9}
    for section, later in (
        (
            "schedule",
            ("warmup_steps", "min_lr", "cooldown_epochs", "power", "patience", "cycle_momentum", "stop_after"),
        ),
        ("optimizer", ("betas",)),
        ("ema", ("half_life",)),
    ):
        for option in later:
            del tree[section][option]
    now = Config(optimizer=OptimizerConfig(name=name))
    assert differences(now, config_from_dict(tree)) == []
    tree["optimizer"]["momentum"] = 0.8
    assert differences(now, config_from_dict(tree)) == (
        [f"--optimizer.{'betas (0.8, 0.999)' if name == 'lamb' else 'momentum 0.8'}, not "
         f"{'(0.9, 0.999)' if name == 'lamb' else '0.9'}"]
    )  # fmt: skip
