"""What a run left behind, read and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def rows(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The rows of one kind in a run's metrics.jsonl."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for line in lines if (row := json.loads(line))["kind"] == kind]


def computed(run: Path) -> list[dict[str, Any]]:
    """What a run computed, without what it measured (times and rates)."""
    keys = ("kind", "step", "epoch", "samples", "loss", "top1", "top5", "lr", "gradient_norm", "count")
    return [{key: row[key] for key in keys if key in row} for kind in ("train", "eval") for row in rows(run, kind)]


def newest_state(run: Path) -> dict[str, Any]:
    """The run's newest checkpoint, its progress among its parts."""
    path = max((run / "checkpoints").glob("step-*.pt"))
    state = torch.load(path, weights_only=True)
    return {**state, **state["progress"]}


def assert_same_tensors(left: Any, right: Any, where: str = "") -> None:
    """Nested states are equal to the last bit."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same_tensors(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    else:
        assert left == right, where


def assert_same_run(left: Path, right: Path, parts: tuple[str, ...] = ("network", "optimizer")) -> None:
    """Two finished runs ended in the same place, to the last bit, and computed the same on the way."""
    first, second = newest_state(left), newest_state(right)
    for part in (*parts, "samples_seen", "step", "best_top1"):
        assert_same_tensors(first[part], second[part], part)
    assert computed(left) == computed(right)
