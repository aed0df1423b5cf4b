"""The house's rules, read from the code: rooms, packages and the direction of imports among them, size of files."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import house

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "inception": {"inception"},
    "pipelines": {"pipelines"},
    "engine": {"engine", "inception", "pipelines", "launch"},
    "launch": {"launch"},
    "slurm": {"slurm", "launch"},
    "benchmarks": {"benchmarks", "engine", "inception", "pipelines", "launch"},
}
# The packages of each room, from the ground up: each may import those of the lines above it. Those of one line stand
# side by side and know nothing of each other. "*" is what stands at the top of the room.
FLOORS = {
    "inception": ["vocabulary", "speed *", "registry", "weights"],
    "pipelines": ["support", "plan", "datasets", "decoding", "loading", "preparing checking", "tools *"],
    "engine": [
        "config", "faults", "graphs", "distributed", "evaluation", "runs", "monitoring", "training inference", "*",
    ],
    "benchmarks": ["measuring", "reporting", "peers", "costs studies", "*"],
}  # fmt: skip
# What stands at the top of a room beside its packages: what people start or read first.
TOPS = {
    "inception": "debug googlenet inception_resnet inception_v2 inception_v3 inception_v4 registry",
    "pipelines": "doctor prepare",
    "engine": "__main__ completion evaluate export predict report train watch",
    "benchmarks": "autotune networks published report roofline scaling throughput time_to_accuracy",
}
MOST_LINES = 300


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(dotted: str, room: str) -> str | None:
    """The package of a room that a dotted name belongs to; "*" for what stands at its top."""
    parts = dotted.split(".")
    if parts[0] != room:
        return None
    return parts[1] if len(parts) > 1 and parts[1] in " ".join(FLOORS[room]).split() else "*"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_the_rooms_that_they_may(room):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(room)
        for name in imports(path)
        if (top := name.split(".")[0]) in ROOMS and top not in ROOMS[room]
    ]
    assert wrong == []


@pytest.mark.parametrize("room", FLOORS)
def test_imports_point_one_way_among_the_packages_of_a_room(room):
    floor = {package: level for level, line in enumerate(FLOORS[room]) for package in line.split()}
    wrong = []
    for path in modules(room):
        inside = path.relative_to(ROOT / room)
        if inside.name == "__init__.py" and len(inside.parts) == 1:
            continue  # the room's own page offers names of all its packages
        here = package_of(".".join([room, *inside.with_suffix("").parts]), room)
        for name in imports(path):
            there = package_of(name, room)
            if there is None or there == here or (there == "*" and name.count(".") <= 1 and room != "benchmarks"):
                continue
            if floor[there] >= floor[here]:
                wrong.append(f"{inside} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("room", FLOORS)
def test_every_package_has_its_floor_and_the_top_holds_entry_points_alone(room):
    packages = {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}
    tops = set(TOPS[room].split())
    assert packages == {package for line in FLOORS[room] for package in line.split()} - {"*"} - tops
    assert {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__"} == tops


def test_no_source_file_is_longer_than_a_long_page():
    files = [
        path for room in ROOMS for pattern in ("*.py", "*.sh", "*.c", "*.h") for path in (ROOT / room).rglob(pattern)
    ]
    long = {
        str(path.relative_to(ROOT)): lines for path in files if (lines := path.read_text().count("\n")) > MOST_LINES
    }
    assert long == {}


def test_no_module_is_named_like_one_of_the_standard_library():
    assert [path for room in ROOMS for path in modules(room) if path.stem in sys.stdlib_module_names] == []


def test_the_page_of_the_house_shows_the_tree_as_it_is():
    page = house.PAGE.read_text(encoding="utf-8")
    assert page == house.filled(page), "python tests/support/house.py writes it anew"


def test_the_walks_through_the_house_lead_to_what_is_there():
    steps = re.findall(r"`([\w/]+\.py):(\w+)`", house.PAGE.read_text(encoding="utf-8"))
    assert len(steps) > 15
    wrong = [
        f"{file}:{name}"
        for file, name in steps
        if not re.search(rf"^ *(def|class) {name}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert wrong == []
