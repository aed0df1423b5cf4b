"""From a command line, a recipe or a checkpoint to the options of a run, checked: whatever is wrong ends in one line.

The options themselves, their defaults and their help stand in `engine/config/options.py`.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from engine.config.bounds import bounds_of
from engine.config.checks import check_values
from engine.config.help_page import HelpOfOptions, arrange, show_help_asked_for
from engine.config.optimizer_registry import optimizer_names
from engine.config.options import Config, ConfigError, flat, leaves
from engine.config.recipes import DEFAULT_RECIPE, RECIPES, read_recipe, recipe_path
from inception import list_models
from pipelines import sample_path
from pipelines.support.completion import COMPLETION, SHELLS, PrintCompletion, take_files
from pipelines.support.meant import option_meant, value_meant

# No options of a run, so not in its tree.
DRY_RUN, PRINT_CONFIG = "--dry-run", "--print-config"


def load_config(arguments: Sequence[str]) -> Config:
    """The run that a command line describes: the recipe's values, then the options given.

    Raises ConfigError for an unknown option (naming the nearest), a wrong type, an impossible value, a recipe that cannot
    be read, or one that leaves open on which data. `--help` prints every option, or those about the words behind it, and exits.
    """
    parser = training_parser()
    arguments = [
        part for given in arguments for part in (given.split("=", 1) if given.startswith("--help=") else [given])
    ]
    show_help_asked_for(parser, arguments)
    arguments = _lists_joined(arguments)
    known = ["recipe", DRY_RUN[2:], PRINT_CONFIG[2:], COMPLETION[2:], *(key for key, _ in leaves(Config()))]
    _check_names((a[2:].split("=")[0] for a in arguments if a.startswith("--")), known, "option --", "--")
    short = (re.match(r"-([A-Za-z])(?=\d|$)|-([A-Za-z][^=]*)", a) for a in arguments)  # -j8, -j 8; -wd 1e-4
    _check_names((found[1] or found[2] for found in short if found), known, "option -", "--")
    try:
        # The recipe is read first so that the other options override it wherever they stand on the line.
        given = parser.parse_args(list(arguments))
        recipe = given.recipe or ("" if _names_data(given.data) else DEFAULT_RECIPE)
        base = Namespace()
        if recipe:
            tree = read_recipe(recipe)
            _check_names(
                (name for name, _ in flat(tree)), [key for key, _ in leaves(Config())], f"recipe {recipe}: key "
            )
            base = parser.parse_object(tree)
        merged = parser.parse_args(list(arguments), namespace=base)
    except ArgumentError as error:
        raise ConfigError(_one_line(str(error))) from None
    _drop_others(merged)
    config = Config(**vars(parser.instantiate(merged)))
    if not _names_data(config.data) and recipe_path(recipe).resolve() != recipe_path(DEFAULT_RECIPE):
        raise ConfigError(
            f"recipe {recipe} names no dataset: add --data.path DIR "
            f"(only the recipe {DEFAULT_RECIPE} means the embedded sample; it lies in {sample_path()})"
        )
    config.run.dir = config.run.dir or str(Path("runs") / (Path(recipe).stem or config.network.name))
    check_values(config)
    # As an absolute path, so that the same command is known again wherever it is given.
    config.run.branch = config.run.branch and str(Path(config.run.branch).absolute())
    if config.run.resume not in ("auto", "never"):
        config.run.resume = str(Path(config.run.resume).absolute())
    return config


def _lists_joined(arguments: Sequence[str]) -> list[str]:
    """`--monitor.trackers csv wandb` as `--monitor.trackers=[csv,wandb]`, for every option that is a list."""
    lists = {f"--{name}" for name, value in leaves(Config()) if isinstance(value, list)}
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in lists:
            joined[-1] += f"={argument}" if argument.startswith("[") else f"=[{argument}]"
        elif joined and not argument.startswith("-") and joined[-1].split("=")[0] in lists and "=[" in joined[-1]:
            joined[-1] = f"{joined[-1][:-1]},{argument}]"
        else:
            joined.append(argument)
    return joined


def _names_data(options: Any) -> bool:
    return bool(options.path or options.train or options.val)


def config_from_dict(tree: dict[str, Any]) -> Config:
    """The inverse of `Config.to_dict`. Raises ConfigError as `load_config` does."""
    _check_names((name for name, _ in flat(tree)), [key for key, _ in leaves(Config())], "key ")
    parser = training_parser()
    try:
        parsed = parser.parse_object(tree)
    except ArgumentError as error:
        raise ConfigError(_one_line(str(error))) from None
    _drop_others(parsed)
    return Config(**vars(parser.instantiate(parsed)))


def _drop_others(parsed: Namespace) -> None:
    """Leaves the options of the run alone."""
    for name in ("recipe", "dry_run", "print_config", "print_completion"):
        parsed.pop(name, None)


class _PrintCompletion(PrintCompletion):
    """jsonargparse knows the values of its typed options; recipes, networks and files are ours to name."""

    def script(self, parser: Any, shell: str) -> str:
        known = {"recipe": _recipe_names, "network.name": list_models, "optimizer.name": optimizer_names}
        for action in parser._actions:
            action.choices = known.get(action.dest, list)() or action.choices
            if "[path" in (action.help or "") or "checkpoint file" in (action.help or ""):
                take_files(action)
        return str(parser.get_completion_script(f"shtab-{shell}"))


def _recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def training_parser() -> ArgumentParser:
    """What knows every option of a training; its help is in the order in which people look for them."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="engine/train.py",
        formatter_class=HelpOfOptions,
        exit_on_error=False,
        default_env=False,
    )
    parser.add_argument(
        "--recipe",
        default="",
        help=f"Options to start from: a YAML file, or one of {', '.join(_recipe_names())}. "
        f"With neither this nor --data.path: {DEFAULT_RECIPE}.",
    )
    parser.add_argument(
        DRY_RUN,
        action="store_true",
        help="Say what would be trained (options, shapes, steps, memory, time) and end; nothing is written.",
    )
    parser.add_argument(
        PRINT_CONFIG, action="store_true", help="Print every option as it comes out, as YAML that is a recipe, and end."
    )
    parser.add_argument(
        COMPLETION,
        action=_PrintCompletion,
        choices=SHELLS,
        help="Print what completes these options in a shell, and end.",
    )
    parser.add_class_arguments(Config)
    bounds = dict(bounds_of(Config()))
    for action in parser._actions:
        if action.dest in bounds:
            action.help = f"{action.help} Bounds: {bounds[action.dest]}."
    arrange(parser)
    return parser


def _check_names(names: Iterable[str], known: Sequence[str], what: str, dashes: str = "") -> None:
    for name in names:
        if name not in known:
            nearest = dashes + option_meant(name, known)
            raise ConfigError(f"{what}{name} does not exist; the nearest is {nearest} (--help lists all)")


def _one_line(message: str) -> str:
    """jsonargparse's paragraph as one line: the option, what was given, what was expected."""
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    if key and value:
        wanted = " or ".join(
            dict.fromkeys(_plain_type(t) for t in re.findall(r"Expected an? (.*?)(?:\. Got|\n|$)", message))
        )
        given, choices = value[1].strip(), wanted.removeprefix("one of ").split(", ") if "one of " in wanted else []
        meant = value_meant(given, choices)
        return f"option --{key[1]}: {given!r} is not {wanted or 'of the right type'}{meant}"
    return re.sub(r"\s+", " ", message).strip()


def _plain_type(text: str) -> str:
    text = re.sub(r"<class '(?:builtins\.)?(\w+)'>", r"\1", text).replace("typing.", "").strip().rstrip(".")
    text = {"float": "a number", "int": "a whole number", "bool": "true or false", "NoneType": "null"}.get(text, text)
    text = "a list of numbers, as [0.5, 1.0]" if text == "tuple" else text
    choices = re.fullmatch(r"Literal\[(.*)\]", text)
    return f"one of {choices[1].replace(chr(39), '')}" if choices else text
