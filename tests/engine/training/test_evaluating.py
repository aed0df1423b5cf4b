"""Evaluations: interrupted and made up for, and their settings and statistics in every file of their step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import engine.evaluate
import engine.export
from engine import Trainer, assemble, load_config
from engine.inference.models import open_model
from inception.weights.files import read_weights
from runs import computed, newest_state, rows

pytestmark = pytest.mark.usefixtures("signals")
SHOWN = {"evaluation.resolution": 48, "evaluation.flip": "true", "evaluation.batch_size": 5, "ema.recalibrate": 2}


@pytest.fixture
def options(tiny_run):
    return lambda name: tiny_run(name, schedule__epochs=1, **SHOWN)[1:]


def test_a_stop_during_an_evaluation_is_heard_and_the_evaluation_made_up_for(options, tmp_path):
    Trainer(assemble(load_config(options("quiet")))).fit()
    run = assemble(load_config(options("stopped")))
    score, scored = run.evaluator.score, []

    def asked_to_stop(*arguments):
        scored.append(arguments)
        run.stop.requested = len(scored) == 2
        return score(*arguments)

    run.evaluator.score = asked_to_stop
    outcome = Trainer(run).fit()
    assert (outcome.reason, outcome.status, len(scored)) == ("preempted", 75, 2)
    assert newest_state(tmp_path / "stopped")["step"] == 6
    assert rows(tmp_path / "stopped", "eval") == []
    assert Trainer(assemble(load_config(options("stopped")))).fit().reason == "completed"
    assert computed(tmp_path / "stopped") == computed(tmp_path / "quiet")

    checkpoints = tmp_path / "quiet" / "checkpoints"
    best, newest = (read_weights(checkpoints / name).state for name in ("best.safetensors", "step-000000006.pt"))
    assert {name for name in best if best[name].is_floating_point()} == newest.keys()
    assert all(torch.equal(best[name], newest[name]) for name in newest)


def evaluated(*arguments: object) -> dict:
    file = Path(str(arguments[-1]))
    assert engine.evaluate.main([str(argument) for argument in (*arguments[:-1], "--json", file)]) == 0
    return json.loads(file.read_text())


def test_weights_are_used_as_their_run_evaluated_them(options, tiny_dataset, tmp_path, capsys):
    Trainer(assemble(load_config(options("run")))).fit()
    told, given = rows(tmp_path / "run", "eval")[0], ["--weights", tmp_path / "run", "--data.path", tiny_dataset]
    found = evaluated(*given, "--precision", "fp32", tmp_path / "found.json")
    assert (found["resolution"], found["flip"], found["average"], found["recalibrated"]) == (48, True, True, True)
    assert found["loss"] == pytest.approx(told["loss"], rel=1e-6)
    assert "48 pixels, and mirrored, " in capsys.readouterr().out
    other = evaluated(*given, "--no-flip", "--data.resolution", "32", "--crop_fraction", "1", tmp_path / "other.json")
    assert (other["resolution"], other["flip"], other["crop_fraction"]) == (32, False, 1.0)
    assert "but for the options given" in capsys.readouterr().out

    model = open_model(str(tmp_path / "run"), torch.device("cpu"), dtype=torch.float32)
    assert model.settings.resolution == 48
    image = torch.randint(0, 256, (1, 3, 48, 48), dtype=torch.uint8)
    assert torch.allclose(model.probabilities(image), model.probabilities(image.flip(3)), atol=1e-6)
    copy = tmp_path / "copy.safetensors"
    given = ["--weights", str(tmp_path / "run"), "--format", "safetensors", "--output", str(copy)]
    assert engine.export.main(given) == 0
    assert read_weights(copy).metadata["evaluation"]["resolution"] == 48
    assert "48 pixels" in capsys.readouterr().out
