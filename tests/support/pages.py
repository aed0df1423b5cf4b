"""The commands and programs that a page of the documents shows, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """(language, text) of the page's blocks of code in these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if language in languages]


def without(words: list[str], *options: str) -> list[str]:
    """A command without these options and their values."""
    places = [place for option in options for place, word in enumerate(words) if word == option]
    return [word for place, word in enumerate(words) if place not in places and place - 1 not in places]


def commands(text: str) -> list[list[str]]:
    """The words of each command of a bash block; a script of this repository has its whole path."""
    lines = [shlex.split(line) for line in text.replace("\\\n", " ").strip().splitlines()]
    return [[str(ROOT / word) if (ROOT / word).is_file() and "/" in word else word for word in line] for line in lines]
