"""How images are shown: what weights say, what options override, and what every file carries on."""

import json

import pytest
import torch

import engine.evaluate
import engine.export
import inception
from engine.config.options import ConfigError
from engine.evaluation.settings import settings_of
from engine.inference.models import open_model
from inception import read_weights

SHOWN = {"resolution": 40, "crop_fraction": 0.875, "resize": 45, "interpolation": "bicubic", "exif": False,
         "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}  # fmt: skip


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    network = inception.create_model("debug", 10)
    file = tmp_path / "published.safetensors"
    inception.save_weights(
        file, network.state_dict(), network.metadata() | {"evaluation": SHOWN, "published": "somebody"}
    )
    return file


def evaluated(weights, tmp_path, *options):
    file = tmp_path / "result.json"
    arguments = ["--weights", str(weights), "--data.workers", "1", "--precision", "fp32", "--json", str(file)]
    assert engine.evaluate.main([*arguments, *options]) == 0
    return json.loads(file.read_text())


def test_evaluation_shows_what_weights_say_and_options_override(weights, tmp_path, capsys):
    found = evaluated(weights, tmp_path)
    assert {name: found[name] for name in SHOWN} == SHOWN
    printed = capsys.readouterr().out
    assert "resized to 45, bicubic, antialiased, EXIF ignored, mean (0.4, 0.5, 0.6)" in printed
    assert "as somebody has it" in printed
    options = "interpolation=bilinear crop_fraction=1 mean=0.5,0.5,0.5 exif=true"
    other = evaluated(weights, tmp_path, *(f"--evaluation.{option}" for option in options.split()))
    assert (other["interpolation"], other["resize"], other["crop_fraction"]) == ("bilinear", 0, 1.0)
    assert (other["mean"], other["std"], other["exif"]) == ([0.5] * 3, SHOWN["std"], True)
    assert other["loss"] != found["loss"]
    assert "but for the options given" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["safetensors", "torch_export"])
def test_exports_carry_it_and_prediction_uses_it(weights, tmp_path, kind):
    file = tmp_path / {"safetensors": "copy.safetensors", "torch_export": "copy.pt2"}[kind]
    options = ["--weights", str(weights), "--format", kind, "--output", str(file), "--evaluation.std", "0.5,0.5,0.5"]
    assert engine.export.main(options) == 0
    model = open_model(str(file), torch.device("cpu"), dtype=torch.float32, trust=True)
    shown = model.settings
    assert (shown.resize, shown.interpolation, shown.exif) == (45, "bicubic", False)
    assert (list(shown.mean), shown.std) == (SHOWN["mean"], (0.5, 0.5, 0.5))
    if kind == "safetensors":
        assert read_weights(file).metadata["published"] == "somebody"


def test_a_resize_keeps_its_proportion_to_another_resolution(weights):
    network, read = inception.network_from_weights(weights)
    assert settings_of(network, read.metadata, resolution=80)[0].resize == 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 39}, "no square of 40 pixels can be cut out of images whose shorter side is resized to 39"),
        ({"mean": (0.5,)}, "--evaluation.mean has 1 numbers for images of 3 channels"),
        ({"std": (0.5, 0.5, 0.0)}, "--evaluation.std must be above 0"),
    ],
)
def test_contradictions_are_one_line(weights, options, message):
    network, read = inception.network_from_weights(weights)
    with pytest.raises(ConfigError, match=message):
        settings_of(network, read.metadata, **options)


def test_older_files_say_their_interpolation_in_words(weights):
    network, read = inception.network_from_weights(weights)
    older = {"evaluation": {"resolution": 32, "crop_fraction": 1.0, "interpolation": "bilinear, antialiased"}}
    assert settings_of(network, read.metadata | older)[0].interpolation == "bilinear"
