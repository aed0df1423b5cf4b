"""Completion of a command's options in a shell, which shtab writes from what the command's parser knows."""

import argparse
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipelines.support.errors import DataError

COMPLETION = "--print-completion"
SHELLS = ("bash", "zsh", "fish")
# Words by which help and placeholders of options tell that files or folders are meant.
_FILES = re.compile(r"\b(FILE|DIR|TAR|IMAGE|paths?|files?|folders?|director(y|ies)|weights)\b")


class PrintCompletion(argparse.Action):
    """Prints the completion of the command that the parser is of, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, option: str | None = None) -> None:
        if find_spec("shtab") is None:
            raise DataError(f"{COMPLETION} needs the package shtab: pip install shtab")
        parser.prog = f"inception-{Path(parser.prog).stem}"  # as an installed package calls the command
        print(self.script(parser, shell))
        sys.exit()

    def script(self, parser: argparse.ArgumentParser, shell: str) -> str:
        """What the shell is to read."""
        import shtab

        _mark_files(parser)
        return shtab.complete(parser, shell)


def take_files(action: argparse.Action) -> None:
    """Has a shell complete the names of files and folders after an option."""
    import shtab

    action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it


def _mark_files(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_files(command)
        elif action.nargs == 0 or action.choices or action.type in (int, float):
            continue
        elif action.type is Path or _FILES.search(f"{action.metavar} {action.help}"):
            take_files(action)
