"""Runs on images with several labels: the loss, mean average precision on any number of ranks, and what contradicts them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine import Trainer, assemble, load_config
from engine.config.options import ConfigError
from engine.distributed.communicator import Communicator
from engine.evaluate import main as evaluate_main
from engine.evaluation.average_precision import AveragePrecision
from engine.graphs.criterion import Criterion
from engine.training.losses import class_weights
from inception import read_weights
from launch.environment import Environment
from pipelines import open_dataset
from runs import assert_same_run, rows
from tiny import tiny_options


@pytest.fixture(scope="module")
def several(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset as lists: beside its class, an image has the label "animal" or "machine"; every seventh has none."""
    root = tmp_path_factory.mktemp("several")
    animals = {"bird", "cat", "deer", "dog", "frog", "horse"}
    for split in ("train", "val"):
        lines = ["path,labels"]
        for number, file in enumerate(sorted((tiny_dataset / split).glob("*/*"))):
            kind = "animal" if file.parent.name in animals else "machine"
            lines.append(f"{file},{'' if number % 7 == 0 else f'{kind}|{file.parent.name}'}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


def options(data: Path, run: Path, **changes: object) -> list[str]:
    return tiny_options(data, run, **{"loss__name": "bce", "schedule__epochs": 2, **changes})


@pytest.fixture(scope="module")
def trained(several: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    Trainer(assemble(load_config(options(several, run)))).fit()
    return run


def test_binary_cross_entropy_of_several_labels():
    table = torch.tensor([[1, 0, 1], [0, 0, 0]], dtype=torch.uint8)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    weights = torch.tensor([1.0, 2.0, 3.0])
    criterion = Criterion(True, class_weights=weights, targets=table)
    expected = F.binary_cross_entropy_with_logits(logits, table[labels].float(), pos_weight=weights)
    torch.testing.assert_close(criterion(logits, labels, None), expected)
    guesses = logits.argmax(1)
    assert criterion.right(logits, labels) == table[labels][torch.arange(4), guesses].sum()


def test_a_run_learns_and_counts_by_mean_average_precision(trained):
    train, evaluations = rows(trained), rows(trained, "eval")
    assert train[-1]["loss"] < train[0]["loss"]
    assert all(0 < row["map"] <= 100 and row["count"] == 30 for row in evaluations)
    best = read_weights(trained / "checkpoints" / "best.safetensors").metadata
    assert best["top1"] == max(row["map"] for row in evaluations)
    assert best["several_labels"] is True
    found = json.loads((trained / "evaluation.json").read_text())
    precisions = [value for value in found["average_precision"] if value is not None]
    assert np.mean(precisions) == pytest.approx(evaluations[-1]["map"], abs=0.01)
    assert (trained / "report.html").exists()


def test_evaluation_by_itself_says_the_same(several, trained, tmp_path, capsys):
    where = ["--weights", str(trained), "--data.path", str(several), "--json", str(tmp_path / "out.json")]
    assert evaluate_main([*where, "--precision", "fp32"]) == 0
    best = max(row["map"] for row in rows(trained, "eval"))
    assert json.loads((tmp_path / "out.json").read_text())["map"] == pytest.approx(best, abs=0.1)
    assert "several labels an image: mean average precision" in capsys.readouterr().out


def test_a_run_on_several_labels_goes_on_to_the_last_bit(several, trained, tmp_path):
    Trainer(assemble(load_config(options(several, tmp_path, run__target_top1=0.001)))).fit()
    Trainer(assemble(load_config(options(several, tmp_path)))).fit()
    assert_same_run(trained, tmp_path)


def test_average_precision_does_not_depend_on_how_images_are_shared(several):
    dataset = open_dataset(several, "val", classes=open_dataset(several, "train").classes)
    labels = torch.from_numpy(dataset.labels(np.arange(30)))
    answers = torch.rand(30, len(dataset.classes), generator=torch.Generator().manual_seed(0))

    def precision(cuts: list[list[int]]) -> torch.Tensor:
        found = AveragePrecision(dataset, Communicator(Environment(), torch.device("cpu")))
        for places in cuts:
            at = torch.tensor(places)
            padded = F.pad(labels[at], (0, 3), value=-1), F.pad(answers[at], (0, 0, 0, 3))
            found.add(torch.empty(0), padded[0], padded[0], padded[1], at)
        found.sum()
        return found.by_class()

    whole, parts = precision([list(range(30))]), precision([list(range(1, 30, 2)), list(range(0, 30, 2))])
    torch.testing.assert_close(whole, parts, equal_nan=True, rtol=0, atol=0)
    wanted = dataset.combinations[labels]
    for k in np.flatnonzero(wanted.sum(0)):
        right = torch.from_numpy(wanted[:, k])[answers[:, k].argsort(descending=True)]
        precisions = right.cumsum(0) / torch.arange(1, 31)  # at each rank
        assert float(whole[k]) == pytest.approx(float(precisions[right > 0].mean()), abs=1e-5)


def test_balanced_weights_are_negatives_over_positives(several):
    train = open_dataset(several, "train")
    wanted = train.combinations[train.labels(np.arange(len(train)))].sum(0)
    expected = torch.tensor((len(train) - wanted) / wanted, dtype=torch.float32)
    torch.testing.assert_close(class_weights("balanced", train), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"loss__name": "cross_entropy"},
            "--loss.name cross_entropy supposes one label an image, .*: add --loss.name bce",
        ),
        ({"data__sampler": "balanced"}, "--data.sampler balanced supposes one label an image"),
        ({"loss__label_smoothing": 0.1}, "--loss.label_smoothing supposes one label an image"),
        ({"augmentation__mixup": 0.2}, "--augmentation.mixup supposes one label an image"),
        ({"augmentation__cutmix": 0.2}, "--augmentation.cutmix supposes one label an image"),
    ],
)
def test_options_for_one_label_are_refused(several, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        assemble(load_config(options(several, tmp_path, **changes)))
    assert "\n" not in str(caught.value)
