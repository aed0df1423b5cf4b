"""The help of a training's options: grouped and ordered as people look for them, all of them or those about a word."""

import re
from argparse import SUPPRESS, Action
from collections.abc import Sequence

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from engine.config.options import ConfigError
from pipelines.support.meant import option_meant

_HELP = ("-h", "--help")
# The sections in the order of a run's questions: what on, which network, how it learns, how it is judged, how it computes,
# what stays of it.
_ORDER = (
    "data", "network", "schedule", "optimizer", "loss", "augmentation", "progressive", "ema", "distillation", "evaluation",
    "run", "", "compile", "strategy", "checkpoint", "monitor", "profile",
    "data.native", "data.dali", "data.ffcv",
)  # fmt: skip
_TITLES = {
    "": "What computes, and hooks of your own",
    "data.native": "The native backend of data",
    "data.dali": "DALI, a backend of data; all but `cut` matters on a GPU alone",
    "data.ffcv": "FFCV, a backend of data",
}
_USAGE = "engine/train.py [--recipe NAME|FILE] [--data.path DIR] [--run.dir DIR] [--SECTION.OPTION VALUE ...]"


class HelpOfOptions(DefaultHelpFormatter):
    """Defaults without the Python types: what may be given stands before it, or in the bounds."""

    def _get_help_string(self, action: Action) -> str:
        text = re.sub(r"\(type: [^\n]*?, (default: %\(default\)s)\)", r"(\1)", super()._get_help_string(action) or "")
        return text.replace(" (default: )", "").replace("(default: ) ", "")


def arrange(parser: ArgumentParser) -> None:
    """Puts the sections of `parser` in order, each with its name as its options have it, and leaves out of the help what is
    no option."""
    parser.usage = _USAGE
    parser.description = (
        "Train an Inception network. A recipe is a YAML file of these options; the command line overrides it. `--help WORD` "
        "shows the options about a word or of a section; the sections are " + ", ".join(filter(None, _ORDER)) + "."
    )
    general, *sections = parser._action_groups[1:]
    general.title = "Before all"
    places = {}
    for group in sections:
        for action in group._group_actions:
            if action.dest in _ORDER:  # a whole section as a file: a recipe does that
                action.help = SUPPRESS
        names = [action.dest.rpartition(".")[0] for action in group._group_actions if action.help != SUPPRESS]
        places[id(group)] = names[0] if names else ""
        title = _TITLES.get(places[id(group)], group.title)
        group.title = f"{places[id(group)]}: {title}" if places[id(group)] else title
    sections.sort(key=lambda group: _ORDER.index(places[id(group)]))
    parser._action_groups[:] = [parser._action_groups[0], general, *sections]  # type: ignore[index]


def show_help_asked_for(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Prints the help and exits where `arguments` ask for it; words behind `--help` choose options. Raises ConfigError for a
    word that no option has."""
    asked = next((place for place, argument in enumerate(arguments) if argument in _HELP), None)
    if asked is None:
        return
    words = [word.lstrip("-") for word in arguments[asked + 1 :]]
    for word in words:
        if not any(_is_about(action, word) for action in parser._actions):
            known = [action.dest for action in parser._actions]
            raise ConfigError(
                f"no option is about {word!r}; the nearest is --{option_meant(word, known)} (--help lists all)"
            )
    if words:
        parser.description = None
        for group in parser._action_groups:
            section = (group.title or "").partition(":")[0]
            group._group_actions = [
                action
                for action in group._group_actions
                if any(word == section or _is_about(action, word) for word in words)
            ]
            group.description = None
    parser.print_help()
    parser.exit()


def _is_about(action: Action, word: str) -> bool:
    """Whether an option's name or help has `word`, as a word or the beginning of one, however they are joined."""
    text = _words(f"{action.dest} {action.help if action.help != SUPPRESS else ''}")
    return re.search(rf"(?<![a-z0-9]){re.escape(_words(word))}", text) is not None


def _words(text: str) -> str:
    return re.sub(r"[-_\s]+", " ", text.lower())
