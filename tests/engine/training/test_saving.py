"""When a run saves, which checkpoints it leaves, that it goes on exactly from each, and says no more than it did."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import engine.runs.checkpoint_writer
from engine import ConfigError, Hook, Trainer, assemble, load_config
from engine.faults.errors import TrainingFailed
from engine.runs.checkpoint_file import checkpoint_step, list_checkpoints, load_checkpoint
from runs import assert_same_tensors, computed, newest_state, rows

pytestmark = pytest.mark.usefixtures("signals")


class Saves(Hook):
    """Keeps a copy of each checkpoint of a run and may ask it to stop after a step."""

    def __init__(self, copies: Path | None = None, stop_after: int = 0) -> None:
        self.steps: list[int] = []
        self.copies, self.stop_after = copies, stop_after

    def on_step(self, run) -> None:
        run.stop.requested = run.stop.requested or run.progress.step == self.stop_after

    def on_save(self, run, path: Path) -> None:
        self.steps.append(run.progress.step)
        if self.copies is not None:
            run.writer.wait()
            self.copies.mkdir(exist_ok=True)
            shutil.copy(path, self.copies)


def train(arguments: list[str], *hooks: Hook):
    return Trainer(assemble(load_config(arguments[1:]), hooks=hooks)).fit()


def steps(run: Path) -> list[int]:
    return [checkpoint_step(path) for path in list_checkpoints(run / "checkpoints")]


NONE = {"checkpoint.every_seconds": "null", "checkpoint.every_epochs": 0}


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({}, [6, 12, 18, 24]),
        ({"checkpoint.every_epochs": 2}, [12, 24]),
        ({"checkpoint.every_epochs": 3}, [18, 24]),
        (NONE, [24]),
        (NONE | {"checkpoint.every_steps": 4}, [4, 8, 12, 16, 20, 24]),
        (NONE | {"checkpoint.every_steps": 5}, [5, 10, 15, 20, 24]),
        (NONE | {"checkpoint.every_steps": 1000}, [24]),
        (NONE | {"checkpoint.every_seconds": 0}, list(range(1, 25))),
        (NONE | {"checkpoint.keep_every_epochs": 3}, [18, 24]),
        (NONE | {"checkpoint.keep_best": 1, "evaluation.every_epochs": 2}, [12, 24]),
    ],
)
def test_when_a_run_saves(options, saved, tiny_run, tmp_path):
    noted = Saves()
    train(tiny_run(schedule__epochs=4, **options), noted)
    assert noted.steps == saved
    assert [row["step"] for row in rows(tmp_path / "run", "eval")][-1] == 24
    assert newest_state(tmp_path / "run")["step"] == 24


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (NONE, True),
        (NONE | {"checkpoint.every_epochs": 1}, True),
        (NONE | {"checkpoint.keep_best": 1}, True),
        (NONE | {"checkpoint.every_steps": 6}, True),
        (NONE | {"checkpoint.every_steps": 5}, False),
        ({"checkpoint.every_epochs": 0}, False),
    ],
)
def test_a_run_that_saves_nothing_before_its_end_says_so(options, told, tiny_run, capfd):
    train(tiny_run(schedule__epochs=1, **options))
    assert ("no checkpoint before the run's end" in capfd.readouterr().out) == told


def test_a_run_goes_on_exactly_from_each_of_its_checkpoints(tiny_run, tmp_path):
    options = {"schedule.epochs": 3, "checkpoint.every_epochs": 2, "checkpoint.every_steps": 5, "checkpoint.keep": 1}
    train(tiny_run("quiet", **options), Saves(tmp_path / "copies"))
    assert steps(tmp_path / "quiet") == [18]
    copies = list_checkpoints(tmp_path / "copies")
    assert [checkpoint_step(path) for path in copies] == [5, 10, 12, 15, 18]
    whole = {(row["kind"], row["step"]): row for row in computed(tmp_path / "quiet")}
    for copy in copies[:-1]:
        train(tiny_run(copy.stem, run__resume=copy, **options))
        assert_same_tensors(newest_state(tmp_path / copy.stem)["network"], newest_state(tmp_path / "quiet")["network"])
        rest = computed(tmp_path / copy.stem)
        assert [row["step"] for row in rest if row["kind"] == "train"] == list(range(checkpoint_step(copy) + 1, 19))
        assert rest == [whole[row["kind"], row["step"]] for row in rest]


def test_the_best_and_some_for_good_stay_beside_the_newest(tiny_run, tmp_path):
    run = tmp_path / "run"
    options = {"checkpoint.keep": 1, "checkpoint.keep_best": 2, "checkpoint.keep_every_epochs": 3, "schedule.epochs": 7}
    train(tiny_run(**options, checkpoint__every_steps=4))
    ranked = sorted(((row["top1"], row["step"]) for row in rows(run, "eval")), reverse=True)
    assert steps(run) == sorted({step for _, step in ranked[:2]} | {18, 36, 42})
    for step in steps(run):
        assert load_checkpoint(run / "checkpoints" / f"step-{step:09d}.pt")["progress"]["step"] == step


def test_an_interrupted_run_keeps_the_same_ones(tiny_run, tmp_path):
    options = {"checkpoint.keep": 1, "checkpoint.keep_best": 2, "schedule.epochs": 5, "checkpoint.every_epochs": 3}
    train(tiny_run("quiet", **options))
    for stop in (7, 12, 19):
        assert train(tiny_run("stopped", **options), Saves(stop_after=stop)).reason == "preempted"
        assert steps(tmp_path / "stopped")[-1] == stop
    assert train(tiny_run("stopped", **options)).reason == "completed"
    assert steps(tmp_path / "stopped") == steps(tmp_path / "quiet")
    assert computed(tmp_path / "stopped") == computed(tmp_path / "quiet")


def test_a_stop_in_the_evaluation_of_an_unsaved_epoch_saves_it(tiny_run, tmp_path):
    options = NONE | {"schedule.epochs": 2}
    train(tiny_run("quiet", **options))
    run = assemble(load_config(tiny_run("stopped", **options)[1:]))
    score = run.evaluator.score

    def asked_to_stop(*arguments):
        run.stop.requested = True
        return score(*arguments)

    run.evaluator.score = asked_to_stop
    assert Trainer(run).fit().reason == "preempted"
    assert steps(tmp_path / "stopped") == [6]
    assert train(tiny_run("stopped", **options)).reason == "completed"
    assert computed(tmp_path / "stopped") == computed(tmp_path / "quiet")


@pytest.mark.parametrize(
    ("option", "value"),
    [("every_steps", -1), ("every_epochs", -1), ("every_seconds", -1), ("keep", 0), ("keep_best", -1),
     ("keep_every_epochs", 1_000_000)],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(option, value, tiny_run):
    with pytest.raises(ConfigError, match=rf"option --checkpoint\.{option} must be"):
        load_config(tiny_run(**{f"checkpoint.{option}": value})[1:])


# ---- a disk that fails ----------------------------------------------------------------------------------------------


class Failing:
    """A writer of files that fails at its calls of these numbers, counted from 1, as on a full disk."""

    def __init__(self, write, *calls: int) -> None:
        self.write, self.calls, self.number = write, calls, 0

    def __call__(self, *arguments):
        self.number += 1
        if self.number in self.calls:
            raise OSError(28, "No space left on device")
        return self.write(*arguments)


@pytest.fixture
def failing(monkeypatch):
    """``failing(name, *calls)``: that function of the checkpoint writer fails at these calls."""

    def fail(name: str, *calls: int) -> None:
        write = getattr(engine.runs.checkpoint_writer, name)
        monkeypatch.setattr(engine.runs.checkpoint_writer, name, Failing(write, *calls))

    return fail


def test_a_run_asked_to_stop_tries_again_what_could_not_be_saved(failing, tiny_run, tmp_path, capfd):
    failing("save_checkpoint", 1)
    assert train(tiny_run(), Saves(stop_after=3)).reason == "preempted"
    assert steps(tmp_path / "run") == [3]
    told = " ".join(capfd.readouterr().out.split())
    assert "a checkpoint could not be written" in told
    assert "asked to stop: saved at step 3" in told


def test_a_run_asked_to_stop_never_says_that_it_saved_what_it_did_not(failing, tiny_run, tmp_path, capfd):
    failing("save_checkpoint", 1, 2, 3)
    with pytest.raises(TrainingFailed, match="could not be written"):
        train(tiny_run(), Saves(stop_after=3))
    assert "saved at" not in capfd.readouterr().out
    assert steps(tmp_path / "run") == []


def test_best_weights_that_could_not_be_written_once_are_written_all_the_same(failing, tiny_run, tmp_path):
    train(tiny_run("quiet"))
    failing("save_weights", 1)
    train(tiny_run("failed"))
    best = [tmp_path / name / "checkpoints" / "best.safetensors" for name in ("quiet", "failed")]
    assert best[0].read_bytes() == best[1].read_bytes()
    assert [row["event"] for row in rows(tmp_path / "failed", "event")] == ["checkpoint failed"]


def test_best_weights_that_cannot_be_written_end_the_run_and_nothing_is_lost(failing, tiny_run, tmp_path):
    train(tiny_run("quiet"))
    failing("save_weights", 2, 3)
    run = tmp_path / "failed"
    with pytest.raises(TrainingFailed, match="in a row could not be written") as failure:
        train(tiny_run("failed"))
    assert "\n" not in str(failure.value)
    before = (run / "checkpoints" / "best.safetensors").read_bytes()
    assert steps(run) == [6, 12]
    assert [row["step"] for row in rows(run, "eval")] == [6]
    assert before
    assert train(tiny_run("failed")).reason == "completed"
    assert computed(run) == computed(tmp_path / "quiet")
    assert (run / "checkpoints" / "best.safetensors").read_bytes() == (
        tmp_path / "quiet" / "checkpoints" / "best.safetensors"
    ).read_bytes()
