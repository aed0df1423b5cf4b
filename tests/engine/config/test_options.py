"""The one tree of options: recipes, command line, help, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from engine.config.command_line import RECIPES, config_from_dict, load_config
from engine.config.options import Config, ConfigError, leaves
from inception import create_model


def test_no_option_gives_the_sample_recipe():
    config = load_config([])
    assert config.network.name == "debug"
    assert config.run.dir == "runs/sample"
    assert config.data.path == ""


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_complete_and_names_a_network(recipe):
    config = load_config(["--recipe", recipe.stem])
    assert config.run.dir == f"runs/{recipe.stem}"
    create_model(config.network.name, 10, width=0.1)
    assert recipe.read_text().startswith("#"), "a recipe says what it is and where its values come from"


def test_the_command_line_overrides_the_recipe_wherever_it_stands(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("optimizer: {lr: 0.3, momentum: 0.8}\ndata: {crop_scale: [0.2, 0.9]}\n")
    config = load_config(["--optimizer.lr", "0.7", "--recipe", str(recipe), "--data.global_batch_size=96"])
    assert (config.optimizer.lr, config.optimizer.momentum) == (0.7, 0.8)
    assert (config.data.crop_scale, config.data.global_batch_size) == ((0.2, 0.9), 96)
    assert config.run.dir == "runs/mine"


def test_the_resolved_tree_reads_back_as_itself():
    config = load_config(["--run.target_top1", "61.5", "--data.quarantine", "bad.txt"])
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_help_shows_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        load_config(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for key, _ in leaves(Config()):
        assert f"--{key} " in text, key
    assert "[seconds]" in text
    assert "default: 0.9" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--optimizer.learning_rate", "1"],
            "option --optimizer.learning_rate does not exist; the nearest is optimizer.l",
        ),
        (["--schedule.epochs", "1.5"], "option --schedule.epochs: '1.5' is not a whole number"),
        (["--precision", "fp8"], "option --precision: 'fp8' is not one of auto, fp32, bf16"),
        (["--data.crop_scale", "[0.5,0.2]"], "the smaller first"),
        (["--ema.decay", "1.5"], "from 0 to 1"),
        (["--recipe", "nothing.yaml"], "recipe nothing.yaml cannot be read"),
        (["extra"], "extra"),
    ],
)
def test_what_is_refused_names_the_option(arguments, message):
    with pytest.raises(ConfigError) as refused:
        load_config(arguments)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_key_of_a_recipe_is_named_with_its_file(tmp_path):
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text("optimizer: {momentun: 0.8}\n")
    with pytest.raises(ConfigError, match=r"wrong.yaml: key optimizer.momentun .* nearest is optimizer.momentum"):
        load_config(["--recipe", str(recipe)])


def test_recipes_folder_is_part_of_the_package():
    assert Path(RECIPES, "sample.yaml").is_file()
