"""The first of the two commands, as a newcomer calls it in a clone that is set up, and its second call."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from runs import rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("one_core")
def test_quickstart_trains_to_its_target_and_a_second_call_skips_what_is_done(run_command, tmp_path):
    run = tmp_path / "quickstart"
    # The environment at hand: set-up would make a new one, under the feet of other tests, where its files have changed.
    environment = {"QUICKSTART_DIR": str(run), "INCEPTION_PYTHON": sys.executable}
    first = run_command(["bash", "launch/quickstart.sh"], env=environment, cwd=ROOT)
    assert first.returncode == 0, first.stdout + first.stderr
    end = rows(run, "end")[-1]
    assert end["reason"] == "target"
    assert rows(run, "eval")[-1]["time"] <= end["seconds_to_target"] <= end["time"]
    assert end["best_top1"] >= yaml.safe_load((run / "config.yaml").read_text())["run"]["target_top1"] >= 45
    assert "done before" not in first.stdout
    accuracy = json.loads((run / "best_evaluation.json").read_text())
    assert accuracy["count"] == 1000
    assert accuracy["top1"] == pytest.approx(end["best_top1"])
    assert len(json.loads((run / "predictions.json").read_text())) > 0
    table = first.stdout.split("== result ==")[1]
    assert f"{accuracy['top1']:.2f}%" in table
    for file in ("report.html", "predictions.png", "checkpoints/best.safetensors"):
        assert (run / file).is_file()
        assert str(run / file) in table
    record = json.loads((run / "quickstart.json").read_text())
    assert record["command"] == "bash launch/quickstart.sh"
    assert record["top1"] == accuracy["top1"]
    assert record["set_up"] is None, "an environment that is there is not set up"
    assert record["seconds"] > 0

    before = (run / "metrics.jsonl").read_bytes()
    second = run_command(["bash", "launch/quickstart.sh"], env=environment, cwd=ROOT)
    assert second.returncode == 0, second.stdout + second.stderr
    shown, again = (text.split("== result ==")[1].splitlines() for text in (first.stdout, second.stdout))
    assert "from the first line to this one" in again[-1]
    assert again[:-1] == shown[:-1]
    assert second.stdout.count("done before") == 2
    assert (run / "metrics.jsonl").read_bytes() == before
