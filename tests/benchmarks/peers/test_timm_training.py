"""timm's train.py as a peer, with a stand-in that speaks and writes as it does."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch

from benchmarks.measuring.command_line import BenchmarkError
from benchmarks.peers.whole_runs import TimmTraining
from engine.config.command_line import load_config
from engine.training.network import build_network

# What train.py logs and writes, three epochs of it; after those it would go on for a minute.
STAND_IN = """
import json, sys, time
from pathlib import Path
options = sys.argv[1:]
place = Path(options[options.index("--output") + 1], options[options.index("--experiment") + 1])
place.mkdir(parents=True)
place.with_name("arguments.json").write_text(json.dumps(options))
print("Scheduled epochs: 3. LR stepped per epoch.", flush=True)
for epoch, top1 in enumerate(TOP1):
    print(f"Train: {epoch} [   9/10 (100%)]  Loss: 2.30  Time: 0.100s,   80.00/s  (0.1s, 80.0/s)  LR: 1e-2", flush=True)
    header = "" if epoch else "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\\n"
    with (place / "summary.csv").open("a") as file:
        file.write(header + f"{epoch},2.3,2.2,{top1},60.0,0.01\\n")
    print("Current checkpoints:", flush=True)
END
"""


def trainer(tmp_path: Path, top1: list[float], end: str, network: str = "inception_v3") -> TimmTraining:
    source = tmp_path / "timm"
    source.mkdir(parents=True)
    (source / "train.py").write_text(STAND_IN.replace("TOP1", str(top1)).replace("END", end))
    config = load_config(["--recipe", "sample", "--network.name", network, "--data.resolution", "75"])
    with torch.device("meta"):
        metadata = build_network(config, 10).metadata()
    return TimmTraining("timm's train.py", config, tmp_path / "data", metadata, 45.0, 2, source)


def test_it_is_stopped_at_the_target(tmp_path):
    run = trainer(tmp_path, [20.0, 46.5], "time.sleep(100_000)").train(3, tmp_path / "run")
    assert [top1 for _, top1 in run.curve] == [20.0, 46.5]
    assert run.to_target == run.curve[-1][0] < run.wall
    assert (run.best, run.images_per_second) == (46.5, 80.0)
    given = json.loads((tmp_path / "run" / "arguments.json").read_text())
    named = {option: value for option, value in itertools.pairwise(given) if option.startswith("--")}
    assert (named["--model"], named["--num-classes"], named["--img-size"]) == ("inception_v3", "10", "75")
    assert (named["--batch-size"], named["--lr"], named["--epochs"], named["--seed"]) == ("96", "0.12", "12", "3")
    assert (named["--model-ema-decay"], named["--smoothing"]) == ("0.99", "0.1")


def test_a_target_that_is_not_reached_is_no_failure(tmp_path):
    run = trainer(tmp_path, [20.0, 30.0, 25.0], "").train(0, tmp_path / "run")
    assert run.to_target is None
    assert (run.best, len(run.curve)) == (30.0, 3)


def test_a_train_script_that_fails_says_why(tmp_path):
    with pytest.raises(BenchmarkError, match="failed with status 1: no memory"):
        trainer(tmp_path, [20.0], "sys.exit('no memory')").train(0, tmp_path / "run")


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="timm has no debug"):
        trainer(tmp_path, [], "", network="debug")
    there = trainer(tmp_path / "good", [], "")
    with pytest.raises(BenchmarkError, match=r"holds no train\.py"):
        dataclasses.replace(there, source=tmp_path)
