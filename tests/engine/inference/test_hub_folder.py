"""A folder for the Hugging Face hub: timm itself loads it, from the disk and from the hub, and shows images as ours does."""

from pathlib import Path

import pytest
import timm
import torch
from timm.data import resolve_model_data_config

import engine.export
import inception
from engine.config.options import ConfigError
from engine.evaluation.settings import settings_of
from hub import serving
from inception import NetworkError

SHOWN = {"resolution": 107, "crop_fraction": 0.9, "resize": 113, "interpolation": "bicubic", "exif": False,
         "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}  # fmt: skip


def saved(folder: Path, network: inception.Network) -> str:
    file = folder / "weights.safetensors"
    metadata = network.metadata() | {
        "evaluation": SHOWN,
        "classes": [f"n{number}" for number in range(network.num_classes)],
    }
    inception.save_weights(file, network.state_dict(), metadata)
    return str(file)


def test_timm_loads_it_from_the_disk_and_from_the_hub(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    network = inception.create_model("inception_v3", 3, auxiliary=True)
    folder = tmp_path / "folder"
    assert engine.export.main(["--weights", saved(tmp_path, network), "--to", f"hf:{folder}"]) == 0
    assert "without AuxLogits, which timm's network lacks" in capsys.readouterr().out
    images = torch.randn(2, 3, 107, 107)
    with serving(tmp_path, monkeypatch) as server, torch.no_grad():
        for file in folder.iterdir():
            server.files[f"/some/body/resolve/main/{file.name}"] = file.read_bytes()
        expected = network.eval()(images)
        for place in (f"local-dir:{folder}", "hf-hub:some/body"):
            theirs = timm.create_model(place, pretrained=True).eval()
            assert torch.allclose(theirs(images), expected, atol=1e-5)
            shown = resolve_model_data_config(theirs)
            assert (shown["input_size"], shown["interpolation"]) == ((3, 107, 107), "bicubic")
            assert int(107 / shown["crop_pct"]) == 113
            assert (list(shown["mean"]), list(shown["std"])) == (SHOWN["mean"], SHOWN["std"])
            assert theirs.pretrained_cfg["label_names"] == ["n0", "n1", "n2"]
        for place in (str(folder), "hf:some/body"):
            ours, weights = inception.network_from_weights(place)
            assert torch.allclose(ours.eval()(images), expected, atol=1e-5)
            assert settings_of(ours, weights.metadata)[0].resize == 113


def test_what_timm_has_not_is_one_line(tmp_path):
    for name, options in (("googlenet", {}), ("inception_v3", {"width": 0.25})):
        network = inception.create_model(name, 3, **options)
        with pytest.raises(NetworkError, match="timm"):
            engine.export.main(["--weights", saved(tmp_path, network), "--to", f"hf:{tmp_path / name}"])
        assert not (tmp_path / name).exists()
    with pytest.raises(ConfigError, match="--to takes hf:FOLDER"):
        engine.export.main(["--weights", "w", "--to", "onnx:file"])
    with pytest.raises(ConfigError, match="or --to hf:FOLDER"):
        engine.export.main(["--weights", "w"])
