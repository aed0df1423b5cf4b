"""The scripts that measure the training loop and its checkpoints, end to end on the debug network."""

from __future__ import annotations

import json

SMALL = ["--network", "debug", "--batch-size", "4", "--windows", "2", "--steps", "2"]


def rows(folder) -> dict[str, float]:
    (file,) = folder.glob("*.json")
    return {row["case"]["what"]: row["value"] for row in json.loads(file.read_text())["rows"]}


def test_the_loop_is_compared_with_torchs_own(run_command, tmp_path):
    done = run_command(["benchmarks/ddp_overhead.py", *SMALL, "--output", tmp_path], timeout=300)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path)
    assert set(found) == {
        "minimal loop, 2 ranks", "trainer loop, 2 ranks", "the loop alone, 2 ranks", "the loop alone, 1 rank",
        "step of the trainer over that of the minimal loop, 2 ranks",
    }  # fmt: skip
    assert all(value > 0 for value in found.values())


def test_the_cost_of_a_checkpoint_is_measured(run_command, tmp_path):
    done = run_command(["benchmarks/checkpoint_cost.py", *SMALL, "--output", tmp_path], timeout=300)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path)
    assert found["standing still for the copy"] > 0
    assert found["steps"] > 0
    assert "A checkpoint has 7 MB" in done.stdout
