"""Mistakes of a person: one clear line, status 2, from all ranks together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inception import create_model, save_weights

TINY = {"network.name": "debug", "data.batch_size": "8", "schedule.epochs": "1"}


@pytest.fixture
def broken(tiny_dataset, tmp_path) -> Path:
    """A copy of the tiny dataset to break."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "broken", ignore=shutil.ignore_patterns(".index")))


def unknown_key(data: Path) -> dict[str, str]:
    return {"optimizer.learning_rate": "1"}


def wrong_type(data: Path) -> dict[str, str]:
    return {"schedule.epochs": "many"}


def missing_directory(data: Path) -> dict[str, str]:
    return {"data.path": str(data / "nowhere")}


def missing_weights(data: Path) -> dict[str, str]:
    return {"network.weights": str(data / "none.safetensors")}


def missing_checkpoint(data: Path) -> dict[str, str]:
    return {"run.resume": str(data / "none.pt")}


def empty_dataset(data: Path) -> dict[str, str]:
    shutil.rmtree(data / "train")
    (data / "train").mkdir()
    return {}


def class_without_images(data: Path) -> dict[str, str]:
    (data / "train" / "zebra").mkdir()
    return {}


def unknown_class_in_val(data: Path) -> dict[str, str]:
    (data / "val" / "ship").rename(data / "val" / "shop")
    return {}


def batch_larger_than_dataset(data: Path) -> dict[str, str]:
    return {"data.batch_size": "97"}


def weights_of_another_network(data: Path) -> dict[str, str]:
    network = create_model("debug", 10, width=0.5)
    save_weights(data / "other.safetensors", network.state_dict(), network.metadata())
    return {"network.weights": str(data / "other.safetensors")}


def unknown_network(data: Path) -> dict[str, str]:
    return {"network.name": "inception_v33"}


def unknown_recipe(data: Path) -> dict[str, str]:
    return {"recipe": "imagenet_inception"}


def impossible_value(data: Path) -> dict[str, str]:
    return {"data.batch_size": "0"}


def truncated_image(data: Path) -> dict[str, str]:
    image = next((data / "train" / "cat").iterdir())
    image.write_bytes(image.read_bytes()[:40])
    return {}


MISTAKES = {
    unknown_key: "nearest is --optimizer.lr",
    wrong_type: "whole number",
    missing_directory: "nowhere does not exist",
    missing_weights: "no weights file",
    missing_checkpoint: "none.pt does not exist",
    empty_dataset: "holds no class folders",
    class_without_images: "zebra holds no images",
    unknown_class_in_val: "'shop'",
    batch_larger_than_dataset: "larger than the dataset of 96",
    weights_of_another_network: "does not fit debug",
    unknown_network: "did you mean 'inception_v3'",
    unknown_recipe: "the recipes are",
    impossible_value: "must be from 1 to 65536",
    truncated_image: "train/cat/",
}


def command_line(mistake, data: Path) -> list[str]:
    options = {"data.path": str(data), "run.dir": str(data.parent / "run"), **TINY, **mistake(data)}
    return [part for key, value in options.items() for part in (f"--{key}", value)]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_one_line_and_status_2(run_command, broken, mistake):
    done = run_command(["engine/train.py", *command_line(mistake, broken)])
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert MISTAKES[mistake] in done.stderr


@pytest.mark.parametrize("mistake", [unknown_key, unknown_class_in_val, weights_of_another_network])
def test_all_ranks_stop_with_one_line(torchrun, broken, mistake):
    done = torchrun(["engine/train.py", *command_line(mistake, broken)], processes=2)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ") or "rank 1] error" in line] == [
        line for line in done.stderr.splitlines() if MISTAKES[mistake] in line
    ]
    assert done.stderr.count(MISTAKES[mistake]) == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
