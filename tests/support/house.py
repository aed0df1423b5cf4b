"""The tree of docs/house.md, read from the files themselves: python tests/support/house.py writes it anew."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "house.md"
ROOMS = ("launch", "pipelines", "inception", "engine", "benchmarks", "slurm")
_MARKS = re.compile(r"(<!-- tree -->\n).*?(<!-- end -->)", re.DOTALL)
_SUFFIXES = {".py", ".sh", ".sbatch", ".c", ".h", ".yaml"}


def tree() -> str:
    """A list of every file of the rooms with the phrase that it begins with, room by room."""
    files = [file.relative_to(ROOT) for room in ROOMS for file in (ROOT / room).rglob("*") if file.suffix in _SUFFIXES]
    lines = []
    for room in ROOMS:
        lines += ["", f"### `{room}/`", "", _phrase(ROOT / room / "__init__.py"), ""]
        inside = sorted(file.relative_to(room) for file in files if file.parts[0] == room)
        for file in sorted(inside, key=lambda file: (len(file.parts) > 1, file.parts)):
            if file.name == "__init__.py" and len(file.parts) > 1:
                lines.append(f"- **`{file.parent}/`** {_phrase(ROOT / room / file)}")
            elif file.name != "__init__.py":
                indent = "  " * (len(file.parts) - 1)
                lines.append(f"{indent}- `{file.name}` {_phrase(ROOT / room / file)}")
    return "\n".join(lines).strip() + "\n"


def _phrase(file: Path) -> str:
    """The first sentence of a file's docstring or first comment, without its end."""
    if not file.exists():
        return ""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        begun = re.search(r"^\s*(?:#(?!!)|//|/\*)((?:.*\n)(?:\s*(?:#|//|\*)(?!/).*\n)*)", text, re.MULTILINE)
        said = re.sub(r"^\s*(#|//|\*)\s?", "", begun[1], flags=re.MULTILINE) if begun else ""
    first = re.split(r"[.:;](?=\s)|\n\s*\n", said.strip(), maxsplit=1)[0]
    return " ".join(first.split()).rstrip(".:*/ ")


def filled(page: str) -> str:
    """A page with the tree between its marks written anew."""
    return _MARKS.sub(lambda marks: f"{marks[1]}\n{tree()}\n{marks[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
