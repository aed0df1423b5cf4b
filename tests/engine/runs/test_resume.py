"""A run that was killed and resumed is the run that never was: weights, averages, optimizer and metrics, bit by bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from runs import assert_same_tensors, computed, newest_state, rows

STEPS = 12


def assert_same_run(left: Path, right: Path) -> None:
    first, second = newest_state(left), newest_state(right)
    for part in ("network", "ema", "optimizer", "samples_seen", "step", "best_top1"):
        assert_same_tensors(first[part], second[part], part)
    assert computed(left) == computed(right)


def kill_after(job, run: Path, step: int) -> None:
    """SIGKILL everything once the run has recorded `step`."""
    job.wait_until(lambda: any(row["step"] >= step for row in rows(run)))
    job.kill()


@pytest.fixture(params=[1, 2])
def ranks(request) -> int:
    return request.param


def kills(soak: bool) -> list[int]:
    return [random.Random(7 + n).randint(2, STEPS - 2) for n in range(10)] if soak else [random.randint(2, STEPS - 2)]


def killed_and_resumed(start_torchrun, run_on_ranks, tiny_run, tmp_path, ranks, steps) -> None:
    options = {"checkpoint.every_seconds": 0.05, "strategy.sync_batchnorm": "true"}
    assert run_on_ranks(tiny_run("quiet", **options), processes=ranks).returncode == 0
    for number, step in enumerate(steps):
        name = f"killed{number}"
        kill_after(start_torchrun(tiny_run(name, **options), processes=ranks), tmp_path / name, step)
        done = run_on_ranks(tiny_run(name, **options), processes=ranks)
        assert done.returncode == 0, f"killed at {step}: {done.stderr}"
        assert_same_run(tmp_path / "quiet", tmp_path / name)


def test_killed_and_resumed_is_bit_identical(start_torchrun, run_on_ranks, tiny_run, tmp_path, ranks):
    killed_and_resumed(start_torchrun, run_on_ranks, tiny_run, tmp_path, ranks, kills(soak=False))


@pytest.mark.soak
def test_killed_at_many_moments_and_resumed_is_bit_identical(start_torchrun, run_on_ranks, tiny_run, tmp_path, ranks):
    killed_and_resumed(start_torchrun, run_on_ranks, tiny_run, tmp_path, ranks, kills(soak=True))


def test_resumed_on_other_ranks_continues_exactly(start_torchrun, run_command, tiny_run, tmp_path):
    """Interrupted on 2 ranks, finished on 1: every step sees the samples, and learning rate, of the quiet run."""
    options = {"checkpoint.every_seconds": 0.05, "strategy.sync_batchnorm": "true", "optimizer.lr": 0.01}
    assert run_command(tiny_run("quiet", **options)).returncode == 0
    job = start_torchrun(tiny_run("moved", **options, **{"data.batch_size": 8}), processes=2)
    kill_after(job, tmp_path / "moved", 5)
    done = run_command(tiny_run("moved", **options))
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout
    quiet, moved = rows(tmp_path / "quiet"), rows(tmp_path / "moved")
    for key in ("step", "samples", "lr"):
        assert [row[key] for row in quiet] == [row[key] for row in moved]
    # Other samples would change a loss by tenths; another number of ranks only changes the order of additions.
    assert [row["loss"] for row in moved] == pytest.approx([row["loss"] for row in quiet], rel=1e-3)


def test_a_finished_run_is_left_alone(run_command, tiny_run, tmp_path):
    arguments = tiny_run("run", **{"schedule.epochs": 1})
    assert run_command(arguments).returncode == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = run_command(arguments)
    assert again.returncode == 0
    assert "finished run" in again.stdout
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    other = run_command([*arguments, "--optimizer.lr", "0.5"])
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "--optimizer.lr" in other.stderr
    never = run_command([*arguments, "--run.resume", "never"])
    assert (never.returncode, never.stderr.count("\n")) == (2, 1)
