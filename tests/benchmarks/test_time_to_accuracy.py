"""Time to accuracy: what is read from a run's metrics, the statistics over seeds, and a contest on an easy dataset."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import time_to_accuracy
from benchmarks.measuring.command_line import BenchmarkError
from benchmarks.peers import whole_runs
from benchmarks.peers.whole_runs import OwnTraining, ReferenceLoop, Run, run_from_rows
from benchmarks.reporting.results import Result, read_results
from engine.config.command_line import load_config
from engine.training.network import build_network

ROWS = [
    {"kind": "event", "step": 0, "time": 31.0, "event": "compiled", "seconds": 30.0},
    {"kind": "train", "step": 10, "time": 40.0, "images_per_second": 90.0},
    {"kind": "train", "step": 20, "time": 50.0, "images_per_second": 100.0},
    {"kind": "train", "step": 30, "time": 60.0, "images_per_second": 101.0},
    {"kind": "eval", "step": 30, "time": 63.0, "top1": 44.0, "seconds": 3.0},
    {"kind": "eval", "step": 60, "time": 96.0, "top1": 46.0, "seconds": 3.0},
    {"kind": "end", "step": 60, "time": 97.0, "seconds_to_target": 96.0, "best_top1": 46.0, "reason": "target"},
]


def run(seed, to_target, **changes):
    known = {
        "wall": 100.0,
        "starting": 3.0,
        "compiling": 0.0,
        "evaluating": 6.0,
        "best": 46.0,
        "images_per_second": 9.0,
    }
    return Run(seed=seed, to_target=to_target, **known | changes)


def test_the_parts_of_a_run_are_told_apart():
    found = run_from_rows(1, wall=101.0, rows=ROWS)
    assert (found.starting, found.compiling, found.evaluating) == (4.0, 30.0, 6.0)
    assert (found.to_target, found.best, found.images_per_second) == (96.0, 46.0, 100.0)
    assert found.curve == [(63.0, 44.0), (96.0, 46.0)]
    with pytest.raises(BenchmarkError, match="without an end row"):
        run_from_rows(1, 10.0, ROWS[:-1])


def test_seeds_give_a_mean_a_deviation_and_an_interval():
    result = Result("time_to_accuracy")
    seconds = [90.0, 100.0, 110.0, 105.0, 95.0]
    time_to_accuracy._add_runs(result, "ours", [run(n, s) for n, s in enumerate(seconds)], 45.0)
    row = result.rows[0]
    assert row.details["mean"] == pytest.approx(np.mean(seconds))
    assert row.details["deviation"] == pytest.approx(np.std(seconds, ddof=1))
    assert row.low == pytest.approx(100 - 2.776 * 7.9057 / 5**0.5, abs=0.01)
    assert not row.higher_is_better


def test_seeds_that_do_not_reach_the_target_are_counted_and_none_is_a_failure():
    result = Result("time_to_accuracy")
    time_to_accuracy._add_runs(result, "some", [run(0, 90.0), run(1, None), run(2, 95.0)], 45.0)
    assert result.rows[0].details["reached"] == "2 of 3"
    result = Result("time_to_accuracy")
    time_to_accuracy._add_runs(result, "none", [run(0, None, best=31.0)], 45.0)
    assert result.rows[0].failure == "not reached in 1 runs; the best was 31.00%"


def test_contestants_are_compared_seed_by_seed():
    result = Result("time_to_accuracy")
    runs = {"ours": [run(0, 50.0), run(1, 40.0)], "theirs": [run(0, 100.0), run(1, 100.0)]}
    time_to_accuracy._compare(result, runs)
    assert result.rows[0].values == [2.0, 2.5]


@pytest.mark.usefixtures("one_core")
def test_ours_and_the_peer_train_to_the_target(shades, tmp_path):
    settings = ["data.batch_size=8", "data.global_batch_size=8", "data.workers=1"]
    settings += ["schedule.epochs=12", "optimizer.lr=0.02", "ema.decay=0"]
    arguments = ["--data", str(shades), "--seeds", "1", "--target", "80", "--peer", "--output", str(tmp_path)]
    arguments += ["--set", *settings, "evaluation.batch_size=16"]
    assert time_to_accuracy.main(arguments) == 0
    result = read_results(tmp_path)[0]
    rows = {(row.case["of"], row.case["what"]): row for row in result["rows"]}
    for name in ("ours", "PyTorch reference loop"):
        assert rows[name, "to 80%"].value > 0
        assert rows[name, "to 80%"].details["best_top1"] >= 80
        assert 0 < rows[name, "evaluating"].value < rows[name, "wall"].value
        assert rows[name, "starting"].value > 0
    assert rows["ours", "PyTorch reference loop over ours"].value > 0
    assert (tmp_path / result["pictures"][0]).stat().st_size > 5_000


def test_the_reference_loop_trains_what_the_recipe_trains(monkeypatch, tmp_path):
    commands = []
    end = '{"best_top1": 50, "seconds_to_target": 9, "seconds": 9, "evaluation_seconds": 1, "images_per_second": 5}'
    monkeypatch.setattr(whole_runs, "finished", lambda command, name: commands.append(command) or (10.0, end))
    config = load_config(["--recipe", "cifar10", "--data.path", "unread"])
    with torch.device("meta"):
        network = build_network(config, 10).metadata()
    found = ReferenceLoop("peer", config, tmp_path, network, 94.0, workers=2).train(3, tmp_path)
    given = json.loads(commands[0][-1])
    assert given["options"] == {"width": 3.0, "auxiliary": False}
    assert (given["lr"], given["batch_size"], given["epochs"], given["seed"]) == (0.4, 512, 30, 3)
    assert (found.to_target, found.starting) == (9, 1.0)


def test_a_dataset_may_come_as_a_zip_file(shades, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "shades"), "zip", shades))
    folder = time_to_accuracy._unpacked(archive, tmp_path / "here")
    assert len(list(folder.rglob("*.jpg"))) == len(list(shades.rglob("*.jpg"))) == 64
    with pytest.raises(BenchmarkError, match="cannot be unpacked"):
        time_to_accuracy._unpacked(tmp_path, tmp_path / "there")


def test_a_training_that_fails_says_why(tmp_path):
    with pytest.raises(BenchmarkError, match=r"ours failed with status 2: .*optimizer\.lr"):
        OwnTraining("ours", ("--optimizer.lr", "-1")).train(0, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "cifar10"], "needs --data"),
        (["--commits", "no-such-commit"], "no-such-commit"),
        (["--recipes", "no_such_recipe"], "no_such_recipe"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(arguments, message):
    from engine.config.options import ConfigError

    with pytest.raises(ConfigError, match=message):
        time_to_accuracy.main(arguments)
