"""Whole runs: from any directory, to a target, from other weights, and what ends one early."""

from __future__ import annotations

import json
import re
import shlex
import signal

import psutil

import inception
from runs import newest_state, rows


def test_torchrun_without_options_trains_the_sample_from_any_directory(start_torchrun, tmp_path):
    """`torchrun --nproc_per_node=2 engine/train.py`, from an empty directory, beyond its first epoch; the recipe's target is
    reached in tests/launch/test_quickstart.py."""
    job, run = start_torchrun(["engine/train.py"], processes=2, cwd=tmp_path), tmp_path / "runs" / "sample"
    job.wait_until(lambda: rows(run, "eval"))
    for rank in psutil.Process(job.pid).children():
        rank.send_signal(signal.SIGUSR1)
    done = job.wait()
    assert "the embedded sample" in done.stdout, done.stderr
    assert "asked to stop: saved at step" in done.stdout, done.stderr
    assert {file.name for file in run.iterdir()} >= {
        "config.yaml", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints", "report.html",
    }  # fmt: skip
    train = rows(run)[0]
    assert {"loss", "lr", "images_per_second", "data_wait_fraction", "step", "epoch", "samples", "time"} <= train.keys()
    assert {"top1", "top5", "loss", "count"} <= rows(run, "eval")[0].keys()
    network, weights = inception.network_from_weights(run / "checkpoints" / "best.safetensors")
    assert (network.name, len(weights.metadata["classes"])) == ("debug", 10)
    assert newest_state(run)["step"] >= rows(run, "eval")[0]["step"] == 41
    environment = json.loads((run / "environment.json").read_text())
    assert shlex.split(environment["command"])[-1].endswith("engine/train.py")


def test_a_loss_that_is_not_finite_ends_the_run_with_step_and_learning_rate(run_command, tiny_run, tmp_path):
    done = run_command(tiny_run(optimizer__lr="1000", schedule__kind="constant"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search("the (loss|gradient) became (nan|inf)", done.stderr)
    assert "at step" in done.stderr
    assert "learning rate 1000" in done.stderr


def test_fine_tuning_replaces_the_classifier_and_says_so(run_command, tiny_run, tmp_path):
    other = inception.create_model("debug", 7)
    file = tmp_path / "seven.safetensors"
    inception.save_weights(file, other.state_dict(), other.metadata())
    done = run_command(tiny_run(network__weights=file, schedule__epochs=1, optimizer__lr="1e-9"))
    assert done.returncode == 0, done.stderr
    assert "classifier keeps its fresh weights" in done.stdout + done.stderr
    trained = newest_state(tmp_path / "run")["network"]
    assert trained["classifier.weight"].shape[0] == 10
    kept = other.state_dict()["inception_a.branch1.conv.weight"]
    assert trained["inception_a.branch1.conv.weight"].sub(kept).abs().max() < 1e-5


def test_unreadable_images_are_replaced_counted_and_named(run_command, tiny_run, tiny_dataset, tmp_path):
    import shutil

    data = shutil.copytree(tiny_dataset, tmp_path / "data", ignore=shutil.ignore_patterns(".index"))
    broken = [*sorted((data / "train" / "dog").iterdir())[:2], min((data / "val" / "dog").iterdir())]
    for image in broken:
        image.write_bytes(b"")
    done = run_command(tiny_run(data__path=data, schedule__epochs=1, data__on_error="skip"))
    assert done.returncode == 0, done.stderr
    named = {event["sample"] for event in rows(tmp_path / "run", "event") if event["event"] == "unreadable"}
    assert named == {str(image) for image in broken}
    assert "2 images of train could not be read and were replaced: " in done.stdout
    assert "1 images of val could not be read and do not count: " in done.stdout
    assert rows(tmp_path / "run", "eval")[-1]["count"] == 29
