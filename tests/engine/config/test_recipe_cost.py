"""The costs of the recipes: every one is there, and the numbers follow from the rate by arithmetic."""

from __future__ import annotations

import pytest

import recipe_cost
from engine.config.command_line import load_config
from engine.config.recipes import RECIPES
from recipe_cost import IMAGES, counted, hours, page

NO_DATA = ["--data.path", "unread"]


def test_one_gpu_takes_images_over_rate():
    config = load_config(["--recipe", "imagenet_inception_v3", *NO_DATA])
    assert hours(config, 1000.0, 1) == pytest.approx(100 * IMAGES / 1000 / 3600, rel=1e-6)
    assert hours(config, 1000.0, 8) > hours(config, 1000.0, 1) / 8


def test_small_images_cost_less():
    assert counted("inception_v3", 299).macs == pytest.approx(5.73e9, rel=0.01)
    growing = load_config(["--recipe", "imagenet_inception_v3_fast", *NO_DATA])
    plain = load_config(["--recipe", "imagenet_inception_v3_fast", "--progressive.start", "0", *NO_DATA])
    assert hours(growing, 1000.0, 1) < hours(plain, 1000.0, 1)


def test_the_page_has_a_row_for_every_recipe(monkeypatch):
    count = counted("debug", 64)  # counting every network at every size of its recipe takes half a minute
    monkeypatch.setattr(recipe_cost, "counted", lambda name, size: count)
    text = page(5100.0)
    for recipe in RECIPES.glob("imagenet_*.yaml"):
        assert text.count(f"[{recipe.stem}]") == 1
