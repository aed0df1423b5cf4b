"""Command lines with a misspelt option: one line that names the option that was meant."""

from __future__ import annotations

import pytest

from engine.evaluate import parse as evaluate
from engine.export import parse as export
from engine.predict import parse as predict
from pipelines import DataError
from pipelines.support.entry_point import Parser


@pytest.mark.parametrize(
    ("parse", "arguments", "meant"),
    [
        (evaluate, ["--weigths", "x"], "--weights"),  # before the required one is missed
        (evaluate, ["--weights=x", "--data.batch-size=3"], "--data.batch_size"),
        (predict, ["a.jpg", "--weights", "x", "--sheets", "s.png"], "--sheet"),
        (export, ["--weights", "x", "--layuot", "timm"], "--layout"),
    ],
)
def test_a_misspelt_option_is_answered_with_the_nearest(parse, arguments, meant):
    with pytest.raises(DataError, match=f"^option --[^ ]+ does not exist; the nearest is {meant} "):
        parse(arguments)


def test_what_stands_behind_a_command_or_two_dashes_is_not_the_programs():
    assert predict(["--weights", "x", "--", "--odd.jpg"]).images == ["--odd.jpg"]
    parser = Parser(prog="p")
    commands = parser.add_subparsers(parser_class=Parser)
    commands.add_parser("folder").add_argument("--output")
    assert parser.parse_args(["folder", "--output", "x"]).output == "x"
    with pytest.raises(DataError, match="the nearest is --output"):
        parser.parse_args(["folder", "--outptu", "x"])
