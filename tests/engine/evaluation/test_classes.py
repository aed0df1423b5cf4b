"""Weights of many classes on datasets of some of them: by WordNet number, by name, in both ways of counting, by ReaL labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import engine.evaluate
import inception
from engine.config.options import ConfigError
from inception.weights.published import imagenet_classes
from pipelines import DataError

NUMBERS = {"n01440764": "tench", "n02102040": "English springer", "n03888257": "parachute_chute"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A network of ImageNet's 1,000 classes that says nothing about them but the two that it takes every image for."""
    torch.manual_seed(0)
    network = inception.create_model("debug", 1000)
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.zero_()
        network.classifier.bias[imagenet_classes().index("n02102040")] = 5.0
        network.classifier.bias[1] = 9.0  # a goldfish, of which there is none here
    file = tmp_path_factory.mktemp("weights") / "thousand.safetensors"
    inception.save_weights(file, network.state_dict(), network.metadata())
    return file


def folders(root: Path, names) -> Path:
    """A validation split of two images a class, named as ImageNet names them."""
    generator, number = np.random.default_rng(0), 0
    for name in names:
        (root / "val" / name).mkdir(parents=True)
        for _ in range(2):
            number += 1
            pixels = generator.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(root / "val" / name / f"ILSVRC2012_val_{number:08d}.JPEG")
    return root


def evaluated(weights: Path, data: Path, *options) -> dict:
    file = data / "result.json"
    arguments = ["--weights", weights, "--data.path", data, "--data.workers", 1, "--json", file, *options]
    assert engine.evaluate.main([str(argument) for argument in arguments]) == 0
    return json.loads(file.read_text())


@pytest.mark.parametrize("by", ["number", "name"])
def test_a_subset_is_counted_among_all_and_among_its_own(weights, tmp_path, capsys, by):
    names = list(NUMBERS) if by == "number" else ["tench", "English_springer", "parachute"]
    found = evaluated(weights, folders(tmp_path, names))
    assert (found["top1"], found["count"]) == (0.0, 6)
    assert found["top1_among"] == pytest.approx(100 / 3)
    assert found["top5_among"] == 100
    printed = capsys.readouterr().out
    assert "1,000 outputs without names are taken for ImageNet's" in printed
    assert "guessing among the 3 classes of the dataset alone: top-1 33.33%" in printed
    assert ("classes are known by name" in printed) == (by == "name")


def test_the_order_of_classes_can_be_given(weights, tmp_path):
    turned = imagenet_classes()
    turned.remove("n01440764")
    turned.insert(1, "n01440764")  # what its second output stands for
    (tmp_path / "order.txt").write_text("\n".join(turned))
    data = folders(tmp_path / "data", NUMBERS)
    assert evaluated(weights, data, "--weights.classes", tmp_path / "order.txt")["top1"] == pytest.approx(100 / 3)


def test_real_labels_count_every_fitting_answer(weights, tmp_path):
    (tmp_path / "real.json").write_text(json.dumps([[0], [1, 0], [], [217], [1], [7]]))
    data = folders(tmp_path / "data", NUMBERS)
    found = evaluated(weights, data, "--data.real", tmp_path / "real.json")
    assert (found["real_count"], found["real_top1"]) == (5, 40.0)
    (tmp_path / "real.json").write_text("[[0], [1]]")
    with pytest.raises(ConfigError, match=r"has no number that .*real.json knows"):
        evaluated(weights, data, "--data.real", tmp_path / "real.json")
    (tmp_path / "real.json").write_text('{"a": "b"')
    with pytest.raises(ConfigError, match="holds no ReaL labels"):
        evaluated(weights, data, "--data.real", tmp_path / "real.json")


def test_a_class_that_is_none_or_several_is_named(weights, tmp_path):
    (tmp_path / "order.txt").write_text("\n".join(imagenet_classes()))
    for name, message in (
        ("unicorn", "class 'unicorn' of the dataset is none of the 1000"),
        ("crane", "'crane' is the name of more than one ImageNet class"),
    ):
        data = folders(tmp_path / name, ["tench", name])
        with pytest.raises(DataError, match=message):
            evaluated(weights, data, "--weights.classes", tmp_path / "order.txt")
