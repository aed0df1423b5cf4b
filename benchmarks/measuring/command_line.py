"""What the scripts' command lines have in common."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from engine.config.options import ConfigError


class BenchmarkError(ConfigError):
    """Bad usage or bad input of a benchmark; the message is one line."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line and whose help shows the defaults."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (--help lists the options)", file=sys.stderr)
        raise SystemExit(2)


def add_output_options(parser: argparse.ArgumentParser, results: Path) -> None:
    """Where the JSON file and the picture go."""
    parser.add_argument("--output", type=Path, default=results, help="folder for the JSON file and the picture")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """`--set`, which gives the options of engine/train.py as a list of arguments."""
    parser.add_argument(
        "--set", nargs="+", action=_TrainingOptions, default=[], metavar="KEY=VALUE",
        help="further options of the training, such as data.prefetch=4",
    )  # fmt: skip


class _TrainingOptions(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        arguments: list[str] = []
        for pair in values:
            key, equals, value = pair.partition("=")
            if not equals:
                parser.error(f"--set takes KEY=VALUE, not {pair!r}")
            arguments += [f"--{key}", value]
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *arguments])


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value
