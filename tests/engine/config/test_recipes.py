"""The recipes that come along: each loads, and its first lines say where it is from, how it is run, what to expect."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from engine.__main__ import COMMANDS
from engine.__main__ import main as commands
from engine.config import recipes
from engine.config.command_line import load_config
from engine.config.options import ConfigError
from engine.config.recipes import RECIPES
from engine.train import main

FILES = sorted(RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_begins_with_its_source_its_command_and_what_to_expect(file, tmp_path):
    head = re.match(r"(#.*\n)+", file.read_text())[0]
    assert "arXiv" in head or file.stem in ("sample", "cifar10")
    [command] = re.findall(r"^# Run: (.*)$", head, re.MULTILINE)
    assert re.search(r"^# Expected: .*(measured|computed)", head, re.MULTILINE)
    words = shlex.split(command.replace("DIR", str(tmp_path)))
    script = next(place for place, word in enumerate(words) if word.endswith((".py", ".sbatch")))
    config = load_config(words[script + 1 :])
    assert config.run.dir == f"runs/{file.stem}"


# ---- one recipe on another --------------------------------------------------------------------------------------------


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_recipe_begins_where_its_base_ends(tmp_path):
    written(tmp_path / "middle.yaml", "base: imagenet_inception_v3\noptimizer: {lr: 0.5}\nschedule.epochs: 7\n")
    top = written(tmp_path / "top.yaml", "base: middle.yaml\noptimizer.momentum: 0.5\n")
    config = load_config(["--recipe", top, "--data.path", "unread", "--ema.decay", "0.5"])
    base = load_config(["--recipe", "imagenet_inception_v3", "--data.path", "unread"])
    assert (config.optimizer.lr, config.optimizer.momentum, config.schedule.epochs, config.ema.decay) == (
        0.5,
        0.5,
        7,
        0.5,
    )
    assert (config.optimizer.name, config.network) == (base.optimizer.name, base.network)
    assert config.run.dir == "runs/top"


def test_a_recipe_of_ours_is_the_same_by_its_file(monkeypatch):
    monkeypatch.chdir(RECIPES.parents[1])
    assert load_config(["--recipe", "engine/recipes/sample.yaml"]).data.path == ""


def test_a_base_lies_beside_the_recipe_that_names_it_in_our_folder_too(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    written(tmp_path / "mine.yaml", "base: other.yaml\n")
    written(tmp_path / "other.yaml", "optimizer: {lr: 0.25}\ndata: {path: unread}\n")
    assert load_config(["--recipe", "mine"]).optimizer.lr == 0.25


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: nothing\n", "recipe 'nothing' does not exist; the recipes are cifar10"),
        ("base: absent.yaml\n", "recipe absent.yaml cannot be read"),
        ("base: [a]\n", r"base \['a'\] is no recipe"),
        ("base: recipe.yaml\n", "its base recipe.yaml begins with .* itself"),
        ("base: other.yaml\n", "recipe other.yaml: its base recipe.yaml begins with other.yaml itself"),
        ("base: sample\noptimizer: {lr: 1, lr: 2}\n", "key lr stands in line 2 and again"),
    ],
)
def test_a_base_that_cannot_be_is_refused(text, words, tmp_path):
    written(tmp_path / "other.yaml", "base: recipe.yaml\n")
    recipe = written(tmp_path / "recipe.yaml", text)
    with pytest.raises(ConfigError, match=words):
        load_config(["--recipe", recipe, "--data.path", "unread"])


def test_what_is_printed_is_a_recipe_of_the_same_run(tmp_path, capsys):
    arguments = ["--recipe", "imagenet_inception_v3", "--data.path", "unread", "--optimizer.lr", "0.3"]
    assert main([*arguments, "--print-config"]) == 0
    recipe = written(tmp_path / "printed.yaml", capsys.readouterr().out)
    assert load_config(["--recipe", recipe]).to_dict() == load_config(arguments).to_dict()


def test_commands_are_listed_and_each_has_a_script(capsys):
    assert commands(["--help"]) == commands([]) == 0
    assert capsys.readouterr().out.count("  train       Train a network.") == 2
    with pytest.raises(ConfigError, match="trian is no command; the commands are train, evaluate"):
        commands(["trian"])
    scripts = (RECIPES.parents[1] / "setup.py").read_text()
    for name, (module, _) in COMMANDS.items():
        assert callable(importlib.import_module(module).command)
        assert f'"{name}"' in scripts


@pytest.mark.parametrize("name", ["train", "prepare"])
def test_commands_run_by_name(run_command, name):
    done = run_command(["-m", "engine", name, "--help"], env={"PYTHONPATH": str(RECIPES.parents[1])})
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage" in done.stdout.lower()
