"""From a command line, a recipe or a checkpoint to the options of a run, checked: whatever is wrong ends in one line.

The options themselves, their defaults and their help stand in `engine/config/options.py`.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from engine.config.options import Config, ConfigError, leaves

RECIPES = Path(__file__).parents[1] / "recipes"
DEFAULT_RECIPE = "sample"

_POSITIVE = {
    "data.batch_size", "data.prefetch", "progressive.multiple", "network.width", "schedule.epochs", "schedule.decay_epochs",
    "optimizer.lr", "evaluation.every_epochs", "strategy.timeout", "checkpoint.keep", "monitor.every_steps",
}  # fmt: skip
_NONNEGATIVE = {
    "data.workers", "data.resolution", "progressive.start", "progressive.begin_epoch", "schedule.warmup_epochs",
    "optimizer.lr_batch_size", "optimizer.weight_decay", "optimizer.momentum", "ema.recalibrate", "evaluation.batch_size",
    "evaluation.resolution", "checkpoint.every_seconds", "profile.steps", "profile.wait",
}  # fmt: skip
_FRACTIONS = {"data.flip", "optimizer.decay", "loss.label_smoothing", "ema.decay"}


def load_config(arguments: Sequence[str]) -> Config:
    """The run that a command line describes: the recipe's values, then the options given.

    Raises ConfigError for an unknown option (naming the nearest), a wrong type, an impossible value, or a recipe that
    cannot be read. `--help` prints every option and exits.
    """
    parser = _parser()
    known = ["recipe", "help", *(key for key, _ in leaves(Config()))]
    _check_names((a[2:].split("=")[0] for a in arguments if a.startswith("--")), known, "option --")
    try:
        # The recipe is read first so that the other options override it wherever they stand on the line.
        given = parser.parse_args(list(arguments))
        recipe = given.recipe or ("" if given.data.path else DEFAULT_RECIPE)
        base = Namespace()
        if recipe:
            base = parser.parse_object(_read_recipe(recipe))
        merged = parser.parse_args(list(arguments), namespace=base)
    except ArgumentError as error:
        raise ConfigError(_one_line(str(error))) from None
    merged.pop("recipe", None)
    config = Config(**vars(parser.instantiate(merged)))
    config.run.dir = config.run.dir or str(Path("runs") / (Path(recipe).stem or config.network.name))
    _check_values(config)
    return config


def config_from_dict(tree: dict[str, Any]) -> Config:
    """The inverse of `Config.to_dict`. Raises ConfigError as `load_config` does."""
    _check_names(_flat_names(tree), [key for key, _ in leaves(Config())], "key ")
    parser = _parser()
    try:
        parsed = parser.parse_object(tree)
    except ArgumentError as error:
        raise ConfigError(_one_line(str(error))) from None
    parsed.pop("recipe", None)
    return Config(**vars(parser.instantiate(parsed)))


def _parser() -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="engine/train.py",
        description="Train an Inception network. Every option below can also stand in a recipe, a YAML file of this tree.",
        exit_on_error=False,
        default_env=False,
    )
    names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    parser.add_argument(
        "--recipe",
        default="",
        help=f"Options to start from: a YAML file, or one of {names}. "
        f"With neither this nor --data.path: {DEFAULT_RECIPE}.",
    )
    parser.add_class_arguments(Config)
    return parser


def _read_recipe(recipe: str) -> dict[str, Any]:
    path = Path(recipe)
    if not path.suffix:
        path = RECIPES / f"{recipe}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in RECIPES.glob("*.yaml"))
            raise ConfigError(
                f"recipe {recipe!r} does not exist; the recipes are {', '.join(known)}, or give a YAML file"
            )
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"recipe {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} is not YAML: {_one_line(str(error))}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"recipe {path} is not a mapping of options")
    _check_names(_flat_names(tree), [key for key, _ in leaves(Config())], f"recipe {path}: key ")
    return tree


def _flat_names(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat_names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _check_names(names: Iterator[str], known: Sequence[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{what}{name} does not exist; the nearest is {_nearest(name, known)} (--help lists all)")


def _nearest(name: str, known: Sequence[str]) -> str:
    section, _, leaf = name.rpartition(".")
    initials = f"{section}.{''.join(word[:1] for word in leaf.split('_'))}"  # learning_rate for lr
    return initials if initials in known else difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _check_values(config: Config) -> None:
    """Values that have the right type and make no sense."""
    for key, value in leaves(config):
        if key in _POSITIVE and value != "auto" and not value > 0:
            raise ConfigError(f"option --{key} must be above 0, not {value}")
        if key in _NONNEGATIVE and value < 0:
            raise ConfigError(f"option --{key} must be 0 or more, not {value}")
        if key in _FRACTIONS and not 0 <= value <= 1:
            raise ConfigError(f"option --{key} must be from 0 to 1, not {value}")
    for key, (low, high) in (("crop_scale", config.data.crop_scale), ("crop_ratio", config.data.crop_ratio)):
        if not 0 < low <= high:
            raise ConfigError(
                f"option --data.{key} must be two numbers above 0, the smaller first, not [{low}, {high}]"
            )
    if config.data.crop_scale[1] > 1:
        raise ConfigError(f"option --data.crop_scale cannot exceed the image: {config.data.crop_scale[1]} is above 1")
    growing = config.progressive
    if growing.start and not growing.begin_epoch <= growing.end_epoch <= config.schedule.epochs:
        raise ConfigError(
            "option --progressive.end_epoch must lie between --progressive.begin_epoch and --schedule.epochs, "
            f"not at {growing.end_epoch}"
        )
    total = config.data.global_batch_size
    if config.data.batch_size == "auto" and total is None:
        raise ConfigError(
            "option --data.batch_size auto needs --data.global_batch_size, or the device's memory would decide how the "
            "network is trained"
        )
    if total is not None and total < 1:
        raise ConfigError(f"option --data.global_batch_size must be above 0, not {total}")


def _one_line(message: str) -> str:
    """jsonargparse's paragraph as one line: the option, what was given, what was expected."""
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    if key and value:
        wanted = " or ".join(
            dict.fromkeys(_plain_type(t) for t in re.findall(r"Expected an? (.*?)(?:\. Got|\n|$)", message))
        )
        return f"option --{key[1]}: {value[1].strip()!r} is not {wanted or 'of the right type'}"
    return re.sub(r"\s+", " ", message).strip()


def _plain_type(text: str) -> str:
    text = re.sub(r"<class '(?:builtins\.)?(\w+)'>", r"\1", text).replace("typing.", "").strip().rstrip(".")
    text = {"float": "a number", "int": "a whole number", "bool": "true or false", "NoneType": "null"}.get(text, text)
    text = "a list of numbers, as [0.5, 1.0]" if text == "tuple" else text
    choices = re.fullmatch(r"Literal\[(.*)\]", text)
    return f"one of {choices[1].replace(chr(39), '')}" if choices else text
