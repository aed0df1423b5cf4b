"""Numbers that are no numbers: never saved, never evaluated, never in metrics.jsonl; the run stops, or goes back."""

from __future__ import annotations

import json
import math

import pytest

from engine import Hook, Trainer, assemble, load_config
from engine.faults.errors import TrainingFailed
from engine.runs.checkpoint_file import list_checkpoints, load_checkpoint
from engine.runs.metrics_file import MetricsFile
from engine.training.finiteness import all_finite
from runs import rows


class Poison(Hook):
    """Makes weights NaN after these steps, as a gradient that is not finite does."""

    def __init__(self, *steps: int) -> None:
        self.steps = list(steps)

    def on_step(self, run) -> None:
        if run.progress.step in self.steps:
            self.steps.remove(run.progress.step)
            next(run.network.parameters()).data.mul_(math.nan)


def train(arguments: list[str], *steps: int):
    return Trainer(assemble(load_config(arguments[1:]), hooks=[Poison(*steps)])).fit()


def test_weights_that_are_not_finite_are_never_saved(tiny_run, tmp_path):
    with pytest.raises(TrainingFailed, match="at step 12 with learning rate") as failure:
        train(tiny_run(), 12)
    checkpoints = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in checkpoints] == ["step-000000006.pt"]
    assert "--run.on_nan rollback, or from the last good checkpoint" in str(failure.value)
    assert f"--run.dir NEW --run.branch {checkpoints[0]}" in str(failure.value)
    assert [row["step"] for row in rows(tmp_path / "run", "eval")] == [6]
    # Both pieces of advice work as they stand.
    assert train(tiny_run("new", run__branch=checkpoints[0], optimizer__lr=0.001)).reason == "completed"
    assert train(tiny_run(run__on_nan="rollback"), 12).reason == "completed"


def test_a_run_goes_back_past_the_batches_and_not_for_ever(tiny_run, tmp_path, capfd):
    options = {"run.on_nan": "rollback", "run.rollbacks": 2}
    assert train(tiny_run(**options), 8).step == 12
    events = [row for row in rows(tmp_path / "run", "event") if row["event"] == "rolled back"]
    assert [row["step"] for row in events] == [9]
    assert "back to the weights of step-000000006.pt, and on after step 9" in events[0]["reason"]
    assert load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])["progress"]["rollbacks"] == 1
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        assert all_finite(load_checkpoint(path))
    with pytest.raises(TrainingFailed, match=r"went back 2 times, as often as --run\.rollbacks allows"):
        train(tiny_run("again", **options), 7, 9, 11)


def test_rows_are_json_whatever_was_measured(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write({"kind": "train", "step": 1, "loss": math.nan, "gradient_norm": math.inf})
    assert json.loads(file.path.read_text(), parse_constant=pytest.fail) == {
        "kind": "train", "step": 1, "loss": None, "gradient_norm": None,
    }  # fmt: skip
    with file.path.open("a") as opened:
        opened.write('{"kind": "train", "step": 2, "loss": NaN}\n')  # as earlier versions wrote it
    assert [row["loss"] for row in file.rows()] == [None, None]


def test_damaged_rows_are_passed_over(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.path.write_bytes(b'{"kind": "train", "step": 1}\n\xff\xfe\n12\n{}\n[]\nnull\n{"kind": "eval", "st')
    assert file.rows() == [{"kind": "train", "step": 1}]
