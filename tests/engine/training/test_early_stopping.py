"""What evaluations decide: when the plateau schedule lowers the rate, and when a run ends early; also across interruptions."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from engine.config.command_line import load_config
from engine.config.options import ConfigError, ScheduleConfig
from engine.evaluation.evaluator import Evaluator
from engine.runs.checkpoint_file import list_checkpoints, load_checkpoint
from engine.training.assembly import Run, assemble
from engine.training.improvement import Improvement
from engine.training.outcome import Outcome
from engine.training.trainer import Trainer
from runs import assert_same_run, rows

ACCURACIES = [10.0, 12.0, 11.0, 12.0, 30.0, 20.0, 20.0, 20.0]  # of the evaluations after epochs 1, 2, ...
PLATEAU = {"schedule__kind": "plateau", "schedule__patience": 2, "schedule__decay_rate": 0.1, "schedule__epochs": 7,
           "checkpoint__keep": 9}  # fmt: skip


class current:
    """The run that is evaluated."""

    run: Run


def script(patched: pytest.MonkeyPatch) -> None:
    """Every evaluation comes out as ACCURACIES say."""
    evaluate = Evaluator.evaluate

    def scripted(self, classes, begin_batch):
        result, findings = evaluate(self, classes, begin_batch)
        return {**result, "top1": ACCURACIES[current.run.progress.epoch - 1]}, findings

    patched.setattr(Evaluator, "evaluate", scripted)


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    script(monkeypatch)


def train(arguments: list[str]) -> Outcome:
    current.run = assemble(load_config(arguments[1:]))
    return Trainer(current.run).fit()


def rates(run) -> list[float]:
    """The learning rate of each epoch's last step."""
    return [row["lr"] for row in rows(run) if row["step"] % 6 == 0]


@pytest.fixture(scope="module")
def whole(tiny_run_in, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a finished run under the plateau schedule, with all its checkpoints, and what it said."""
    folder = tmp_path_factory.mktemp("plateau") / "run"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(said):
        script(patched)
        assert train(tiny_run_in(folder, **PLATEAU)).reason == "completed"
    return folder, said.getvalue()


@pytest.fixture
def interrupted(whole, tmp_path: Path):
    """``interrupted(epoch)``: a copy of that run, broken off after the evaluation of an epoch."""

    def copied(epoch: int) -> Path:
        folder = Path(shutil.copytree(whole[0], tmp_path / "cut"))
        for path in list_checkpoints(folder / "checkpoints")[epoch:]:
            path.unlink()
        metrics = folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines()
        metrics.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= epoch * 6))
        return folder

    return copied


def test_plateau_lowers_the_rate_where_evaluations_no_longer_improve(whole):
    folder, said = whole
    # 12 stays the best of epochs 2 to 4, 30 that of epochs 5 to 7.
    assert rates(folder) == pytest.approx([0.02, 0.02, 0.02, 0.02, 0.002, 0.002, 0.002])
    assert "no better accuracy than 12.00% in 2 evaluations: the learning rate goes down to 0.002" in said


@pytest.mark.parametrize("epoch", [3, 4])
def test_an_interrupted_plateau_goes_on_to_the_last_bit(tiny_run, whole, interrupted, epoch):
    folder = interrupted(epoch)
    train(tiny_run("cut", **PLATEAU))
    assert rates(folder) == rates(whole[0])
    assert_same_run(whole[0], folder, ("network", "optimizer", "ema", "improvement"))


def test_a_checkpoint_that_goes_on_elsewhere_brings_its_plateau(tiny_run, whole, tmp_path):
    file = whole[0] / "checkpoints" / "step-000000024.pt"  # of epoch 4, which its own evaluation is no part of
    train(tiny_run("other", **PLATEAU, run__resume=file))
    assert rates(tmp_path / "other") == rates(whole[0])[4:]


def test_a_checkpoint_of_before_there_was_a_count_takes_it_from_the_rows(tiny_run, whole, interrupted):
    folder = interrupted(4)
    last = list_checkpoints(folder / "checkpoints")[-1]
    state = load_checkpoint(last)
    del state["improvement"]
    torch.save(state, last)
    train(tiny_run("cut", **PLATEAU))
    assert rates(folder) == rates(whole[0])


def test_a_branch_keeps_the_rate_and_counts_its_own_evaluations(tiny_run, whole, tmp_path, capfd):
    file = whole[0] / "checkpoints" / "step-000000030.pt"
    train(tiny_run("branch", **{**PLATEAU, "schedule__epochs": 6}, run__branch=file))
    assert rates(tmp_path / "branch") == pytest.approx([0.002])
    counted = current.run.improvement
    assert (counted.best, counted.since_best) == (30.0, 1), "its own, of epochs 5 and 6, not those of the run before"
    assert "goes on as the plateau schedule left it, lowered 1 time\n" in capfd.readouterr().out


def test_how_is_evaluated_is_part_of_a_run_that_goes_by_it(tiny_run, interrupted):
    interrupted(2)
    with pytest.raises(ConfigError, match=r"--evaluation.flip False, not True"):
        train(tiny_run("cut", **PLATEAU, evaluation__flip="true"))


def test_a_run_that_no_longer_improves_is_ended_and_says_so(tiny_run, tmp_path, capfd):
    options = {"schedule__stop_after": 2, "schedule__epochs": 8}
    outcome = train(tiny_run(**options))
    assert (outcome.reason, outcome.status, outcome.step, outcome.best_top1) == ("stopped early", 0, 24, 12.0)
    end = rows(tmp_path / "run", "end")[-1]
    assert (end["reason"], end["seconds_to_target"]) == ("stopped early", None)
    assert "stopped early, after 2 evaluations without a better accuracy than 12.00%" in capfd.readouterr().out
    assert "stopped early in epoch 4" in (tmp_path / "run" / "report.html").read_text()

    assert train(tiny_run(**options)).reason == "stopped early"
    assert "holds a finished run (stopped early, best top-1 12.00%)" in capfd.readouterr().out
    assert len(rows(tmp_path / "run")) == 24

    metrics = tmp_path / "run" / "metrics.jsonl"  # cut off between the last evaluation and the end
    metrics.write_text("".join(f"{line}\n" for line in metrics.read_text().splitlines() if '"kind": "end"' not in line))
    assert train(tiny_run(**options)).step == 24
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 25))

    assert train(tiny_run(**{**options, "schedule__stop_after": 3})).step == 48  # the last three are not better
    assert "had stopped early; training goes on" in capfd.readouterr().out
    assert rows(tmp_path / "run", "end")[-1]["reason"] == "completed"


def test_evaluations_are_counted_once_and_by_their_best():
    improvement = Improvement(ScheduleConfig(kind="plateau", patience=2, stop_after=3))
    lowered = [improvement.add(step, accuracy) for step, accuracy in enumerate([5.0, 5.0, 5.0, 4.0, 5.0])]
    assert lowered == [False, False, True, False, True]
    assert (improvement.best, improvement.since_best, improvement.lowered, improvement.has_stopped) == (5.0, 4, 2, True)
    assert not improvement.add(4, 3.0), "the same evaluation again"
    rising = Improvement(ScheduleConfig(kind="plateau", patience=2), warmup_steps=2)
    assert [rising.add(step, 5.0) for step in range(6)] == [False, False, False, False, True, False]
    assert rising.since_best == 5
    other = Improvement(ScheduleConfig(kind="plateau", patience=2))
    other.load_state_dict(improvement.state_dict())
    other.catch_up({3: 1.0, 6: 9.0, 5: 1.0})
    assert (other.best, other.since_best, other.lowered, other.has_stopped) == (9.0, 0, 2, False)


def test_one_cycle_moves_the_momentum_and_half_life_follows_the_batch(tiny_run, tmp_path, capfd):
    seen = []
    options = {"schedule__kind": "onecycle", "schedule__epochs": 1, "ema__decay": 0, "ema__half_life": 48}
    current.run = assemble(load_config(tiny_run(**options, data__batch_size=8)[1:]))
    current.run.hooks.step = lambda run: seen.append(run.parallelism._optimizer.param_groups[0]["momentum"])
    Trainer(current.run).fit()
    assert seen[0] == pytest.approx(0.95)
    assert min(seen) < 0.86
    assert seen[-1] > 0.9
    assert current.run.average.decay == pytest.approx(0.5 ** (1 / 3)), "16 images a step, in two micro-batches"
    assert "half of it from the last 48 images, by a decay of 0.793701 a step of 16 images" in capfd.readouterr().out
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["ema"]["half_life"] == 48
