"""The scripts that measure the training loop and its checkpoints, end to end on the debug network."""

from __future__ import annotations

import json

import pytest

from benchmarks.costs import ddp_overhead

SMALL = ["--network", "debug", "--batch-size", "4", "--windows", "2", "--steps", "2"]


def rows(folder) -> dict[str, float]:
    (file,) = folder.glob("*.json")
    return {row["case"]["what"]: row["value"] for row in json.loads(file.read_text())["rows"]}


@pytest.mark.usefixtures("forked_ranks")
def test_the_loop_is_compared_with_torchs_own(tmp_path):
    assert ddp_overhead.main([*SMALL, "--output", str(tmp_path)]) == 0
    found = rows(tmp_path)
    assert set(found) == {
        "minimal loop, 2 ranks", "trainer loop, 2 ranks", "the loop alone, 2 ranks", "the loop alone, 1 rank",
        "step of the trainer over that of the minimal loop, 2 ranks",
    }  # fmt: skip
    assert all(value > 0 for value in found.values())


def test_the_cost_of_a_checkpoint_is_measured(run_command, tmp_path):
    done = run_command(["benchmarks/costs/checkpoint_cost.py", *SMALL, "--output", tmp_path])
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path)
    assert found["standing still for the copy"] > 0
    assert found["steps"] > 0
    assert "A checkpoint has 7 MB" in done.stdout


@pytest.mark.soak
def test_the_parts_of_monitoring_are_timed(run_command, tmp_path):
    small = ["--batch-size", "500", "--steps", "4", "--set", "network.width=0.1", "data.resolution=32"]
    done = run_command(["benchmarks/costs/monitoring.py", *small, "--output", tmp_path])
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.json")
    shares = {row["case"]["part"]: row["value"] for row in json.loads(file.read_text())["rows"]}
    in_loop, background = shares.pop("all in the loop"), shares.pop("the page, in the background")
    assert background > 0
    assert shares["rows"] > 0
    assert in_loop == pytest.approx(sum(shares.values()))


@pytest.mark.soak
def test_a_restart_is_compared_with_a_cold_start(run_command, tmp_path):
    arguments = ["--network", "debug", "--batch-size", "4", "--rounds", "1", "--output", tmp_path]
    done = run_command(["benchmarks/costs/restart.py", *arguments])
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.json")
    seconds = {
        (row["case"]["start"], row["case"]["part"]): row["value"] for row in json.loads(file.read_text())["rows"]
    }
    for start in ("cold", "warm"):
        parts = [seconds[start, part] for part in ("imports", "network and data", "compiling", "first step")]
        assert all(part > 0 for part in parts)
        assert sum(parts) < 1.5 * seconds[start, "to the first step"]
    ratio = seconds["cold over warm", "compiling"]
    assert seconds["cold", "compiling"] == pytest.approx(ratio * seconds["warm", "compiling"], rel=0.01)


@pytest.mark.soak
def test_statistics_are_compared_on_the_same_weights(run_command, tmp_path):
    small = ["--decays", "0.9", "--epochs", "1", "--seeds", "1", "--batches", "2", "--set", "network.width=0.25"]
    done = run_command(["benchmarks/studies/recalibration.py", *small, "--output", tmp_path])
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.json")
    top1 = {row["case"]["statistics"]: row["value"] for row in json.loads(file.read_text())["rows"]}
    assert top1["recalibrated over averaged"] == pytest.approx(top1["recalibrated"] - top1["averaged"])
    assert min(top1["averaged"], top1["recalibrated"]) > 10
