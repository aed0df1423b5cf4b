"""The recipes that come along: each loads, and its first lines say where it is from, how it is run, what to expect."""

from __future__ import annotations

import re
import shlex

import pytest

from engine.config.command_line import RECIPES, load_config

FILES = sorted(RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_begins_with_its_source_its_command_and_what_to_expect(file, tmp_path):
    head = re.match(r"(#.*\n)+", file.read_text())[0]
    assert "arXiv" in head or file.stem in ("sample", "cifar10")
    [command] = re.findall(r"^# Run: (.*)$", head, re.MULTILINE)
    assert re.search(r"^# Expected: .*(measured|computed)", head, re.MULTILINE)
    words = shlex.split(command.replace("DIR", str(tmp_path)))
    script = next(place for place, word in enumerate(words) if word.endswith((".py", ".sbatch")))
    config = load_config(words[script + 1 :])
    assert config.run.dir == f"runs/{file.stem}"
