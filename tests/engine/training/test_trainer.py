"""The trainer as a library: a run assembled, trained and looked at from Python; hooks; checkpoints of earlier versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import engine
from engine import ConfigError, Hook, Trainer, assemble, load_config
from engine.runs.checkpoint_file import list_checkpoints, load_checkpoint
from runs import computed, newest_state, rows

ROOT = Path(__file__).resolve().parents[3]


class Diary(Hook):
    """Notes which events came, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []
        self.closed = False

    def on_step(self, run) -> None:
        self.events.append(("step", run.progress.step))

    def on_row(self, run, row) -> None:
        self.events.append((row["kind"], row.get("event", row["step"])))

    def on_evaluation(self, run, row, findings) -> None:
        assert int(findings.matrix.sum()) == row["count"]
        self.events.append(("evaluation", row["top1"]))

    def on_save(self, run, path) -> None:
        self.events.append(("save", path.name))

    def on_end(self, run, outcome) -> None:
        self.events.append(("end of run", outcome.reason))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def options(tiny_run):
    """``options(name, **changes)``: what a command line of engine/train.py holds after the script's name."""
    return lambda name="run", **changes: tiny_run(name, **changes)[1:]


def test_a_run_is_assembled_trained_and_looked_at_from_python(options, tmp_path):
    diary = Diary()
    run = assemble(load_config(options()), hooks=[diary])
    outcome = Trainer(run).fit()
    assert (outcome.reason, outcome.status, outcome.step) == ("completed", 0, 12)
    assert outcome.best_top1 == max(row["top1"] for row in rows(tmp_path / "run", "eval"))
    assert outcome.weights.is_file()
    assert run.progress.step == 12
    epoch = [event for step in range(1, 7) for event in (("step", step), ("train", step))]
    evaluations = [("evaluation", row["top1"]) for row in rows(tmp_path / "run", "eval")]
    assert diary.events[: len(epoch)] == epoch
    assert diary.events[len(epoch) :][:3] == [("save", "step-000000006.pt"), ("eval", 6), evaluations[0]]
    assert diary.events[-2:] == [("end", 12), ("end of run", "completed")]
    assert diary.closed


def test_a_hook_of_ones_own_is_named_on_the_command_line(run_command, tiny_run, tmp_path):
    (tmp_path / "my_module.py").write_text(
        "from engine import Hook\n"
        "class Shout(Hook):\n"
        "    def on_evaluation(self, run, row, findings):\n"
        "        print('HEARD', row['count'], flush=True)\n"
    )
    done = run_command(tiny_run(hooks="my_module:Shout"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("HEARD 30") == 2


@pytest.mark.parametrize("name", ["nowhere:Hook", "engine:assemble", "engine", "engine:Nothing"])
def test_what_is_no_hook_is_refused_by_name(options, name):
    with pytest.raises(ConfigError, match=r"option --hooks: .*" + name.split(":")[0]):
        assemble(load_config(options(hooks=name)))


def test_a_hook_acts_only_where_it_was_added(options):
    run = assemble(load_config(options()))
    diary = Diary()
    with run.closing():
        with run.hooks.added(diary):
            Trainer(run).train_epoch(0)
        heard = len(diary.events)
        Trainer(run).train_epoch(1)
    assert heard == len(diary.events) > 0


def test_a_checkpoint_of_the_first_format_goes_on_as_if_it_were_of_today(options, tmp_path):
    """The first format kept the progress beside the parts; such a run continues to the same end, bit for bit."""
    Trainer(assemble(load_config(options("whole")))).fit()
    Trainer(assemble(load_config(options("half")))).fit()
    last, first = sorted(list_checkpoints(tmp_path / "half" / "checkpoints"), reverse=True)
    last.unlink()
    state = load_checkpoint(first)
    old = {**state, **state.pop("progress"), "recent": state["recent"]["means"], "format": "inception-checkpoint-1"}
    old.pop("progress", None)
    torch.save(old, first)
    metrics = tmp_path / "half" / "metrics.jsonl"
    metrics.write_text("".join(line + "\n" for line in metrics.read_text().splitlines() if '"kind": "end"' not in line))
    Trainer(assemble(load_config(options("half")))).fit()
    assert computed(tmp_path / "half") == computed(tmp_path / "whole")
    left, right = (newest_state(tmp_path / name)["network"] for name in ("half", "whole"))
    assert all(torch.equal(left[name], right[name]) for name in right)


def test_what_the_package_offers_is_there():
    for name in engine.__all__:
        assert getattr(engine, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = engine.nothing


def test_importing_the_package_alone_brings_no_torch():
    code = "import engine, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, check=False)
    assert done.returncode == 0
