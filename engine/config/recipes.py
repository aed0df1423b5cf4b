"""Recipes: YAML files of the tree of options, one of which may begin where another ends (`base: imagenet_inception_v3`)."""

from pathlib import Path
from typing import Any

import yaml

from engine.config.options import ConfigError, flat

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
DEFAULT_RECIPE = "sample"
BASE = "base"  # the key of a recipe that names another


def recipe_path(recipe: str, beside: Path = Path()) -> Path:
    """The file of a recipe: a YAML file by its name, in the folder `beside` unless that is absolute, or one of ours."""
    return beside / recipe if Path(recipe).suffix else RECIPES / f"{recipe}.yaml"


def read_recipe(recipe: str) -> dict[str, Any]:
    """The options that a recipe holds, over those of its base, as nested dicts; their names and values are not checked.

    Raises ConfigError, naming the file, when it cannot be read or says something twice.
    """
    return nested(_read(recipe, recipe_path(recipe), ()))


def _read(recipe: str, path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Options by dotted name."""
    tree = _tree(recipe, path)
    base = tree.pop(BASE, None)
    names = [name for name, _ in flat(tree)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"recipe {recipe}: key {name} is given twice, once within its section: leave one out")
    options = dict(flat(tree))
    if base is None:
        return options
    if not isinstance(base, str) or not base:
        raise ConfigError(f"recipe {recipe}: {BASE} {base!r} is no recipe: name a YAML file, or one of {_known()}")
    below = recipe_path(base, path.parent)
    if below.resolve() in (*above, path.resolve()):
        raise ConfigError(f"recipe {recipe}: its base {base} begins with {recipe} itself: name another")
    return _read(base, below, (*above, path.resolve())) | options


def _tree(recipe: str, path: Path) -> dict[str, Any]:
    if not Path(recipe).suffix and not path.is_file():
        raise ConfigError(f"recipe {recipe!r} does not exist; the recipes are {_known()}, or give a YAML file")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise ConfigError(f"recipe {recipe} cannot be read: {error.strerror}") from None
    except _KeyStandsTwice as error:
        raise ConfigError(f"recipe {recipe}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {recipe} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"recipe {recipe} is not a mapping of options")
    return tree


def _known() -> str:
    return ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))


class _KeyStandsTwice(yaml.YAMLError):
    pass


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping with a key twice, of which YAML's libraries take the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise _KeyStandsTwice(
                    f"key {key.value} stands in line {lines[key.value]} and again in line {line}: leave one out"
                )
            lines[key.value] = line
        return node


def nested(options: dict[str, Any]) -> dict[str, Any]:
    """The tree of options that are named by dots."""
    tree: dict[str, Any] = {}
    for name, value in options.items():
        *sections, leaf = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    return tree
