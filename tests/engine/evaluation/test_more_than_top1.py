"""What an evaluation tells beside top-1, against computations of their own: classes, calibration, crops, ensembles, files."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError
from torchvision.transforms.v2 import functional as F

import engine.evaluate
import inception
from engine.config.options import ConfigError
from inception import NetworkError

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
SHOWN = {"resolution": 32, "crop_fraction": 0.8, "resize": 0, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def saved(file: Path, seed: int, names=NAMES, **metadata) -> inception.Network:
    """A network with random weights that gives different answers, surer of some than of others, and its file."""
    torch.manual_seed(seed)
    network = inception.create_model("debug", len(names)).train()
    coarse = torch.randint(0, 256, (64, 3, 4, 4), dtype=torch.uint8)
    pictures = [F.resize(each, [32, 32], F.InterpolationMode.BICUBIC, antialias=True) for each in coarse]
    mean, std = (torch.tensor(SHOWN[name]).view(3, 1, 1) for name in ("mean", "std"))
    images = (torch.stack(pictures) / 255 - mean) / std
    with torch.no_grad():
        for _ in range(40):
            network(images)
        features = network.eval().embed(images)
        directions = torch.randn_like(network.classifier.weight)
        spread = (features @ directions.T).std(0)
        network.classifier.weight.copy_(2 * directions / spread[:, None])
        network.classifier.bias.copy_(-network.classifier.weight @ features.mean(0))
    metadata = network.metadata() | {"evaluation": SHOWN, "classes": list(names), **metadata}
    inception.save_weights(file, network.state_dict(), metadata)
    return network.eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four pictures of each class but one, of several sizes."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(4 * (len(NAMES) - 1)):
        width, height = 36 + number % 5 * 4, 36 + number % 3 * 7
        folder = root / "val" / NAMES[number % (len(NAMES) - 1)]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return root


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[Path, inception.Network]:
    folder = tmp_path_factory.mktemp("weights")
    return {folder / f"{seed}.safetensors": saved(folder / f"{seed}.safetensors", seed) for seed in (1, 2)}


def evaluated(weights, data: Path, *options) -> dict:
    file = data.parent / "result.json"
    files = weights if isinstance(weights, list) else [weights]
    arguments = ["--weights", *files, "--data.path", data, "--data.workers", 1, "--json", file, "--data.batch_size", 16]
    arguments += ["--precision", "fp32"]
    assert engine.evaluate.main([str(argument) for argument in (*arguments, *options)]) == 0
    return json.loads(file.read_text())


def images_of(data: Path) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The pictures as Pillow reads them, in the order of their paths, and their labels."""
    files = sorted(data.glob("val/*/*.png"))
    pixels = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) for file in files]
    return pixels, torch.tensor([NAMES.index(file.parent.name) for file in files])


def probabilities(network: inception.Network, crops: list[torch.Tensor]) -> torch.Tensor:
    mean, std = (torch.tensor(SHOWN[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return network((torch.stack(crops) / 255 - mean) / std).softmax(1)


def centre(image: torch.Tensor) -> torch.Tensor:
    side = round(0.8 * min(image.shape[1:]))
    top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
    return F.resized_crop(image, top, left, side, side, [32, 32], antialias=True)


def mirrored(crops) -> list[torch.Tensor]:
    return [*crops, *(crop.flip(2) for crop in crops)]


def test_every_number_is_that_of_torchmetrics(networks, data, tmp_path):
    weights, network = next(iter(networks.items()))
    found = evaluated(weights, data, "--predictions", tmp_path / "guesses.csv", "--report", tmp_path / "page.html")
    images, labels = images_of(data)
    expected = probabilities(network, [centre(image) for image in images])
    count = len(NAMES)
    for name, top in (("top1", 1), ("top5", 5)):
        accuracy = MulticlassAccuracy(count, top_k=top, average="micro")(expected, labels)
        assert found[name] == pytest.approx(100 * float(accuracy))
        recall = MulticlassAccuracy(count, top_k=top, average="none")(expected, labels)
        assert [row[name] for row in found["per_class"]] == pytest.approx((100 * recall[:-1]).tolist())
    assert [row["class"] for row in found["per_class"]] == NAMES[:-1]  # of the last there are no images
    assert found["loss"] == pytest.approx(float(torch.nn.functional.nll_loss(expected.log(), labels)), rel=1e-4)
    for norm, name in (("l1", "ece"), ("max", "mce")):
        error = MulticlassCalibrationError(count, n_bins=15, norm=norm)(expected, labels)
        assert found[name] == pytest.approx(100 * float(error), abs=1e-3)
    assert sum(row["images"] for row in found["reliability"]) == found["count"] == len(labels)
    guessed = expected.argmax(1)
    precision = [100 * float((labels[guessed == k] == k).float().mean()) for k in range(count - 1)]
    wanted = [None if np.isnan(value) else pytest.approx(value) for value in precision]
    assert [row["precision"] for row in found["per_class"]] == wanted
    with (tmp_path / "guesses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    values, indices = expected.topk(5, dim=1)
    assert [row["class"] for row in rows] == [NAMES[label] for label in labels]
    assert [row["guess1"] for row in rows] == [NAMES[guess] for guess in indices[:, 0]]
    assert [float(row["probability5"]) for row in rows] == pytest.approx(values[:, 4].tolist(), abs=1e-4)
    page = (tmp_path / "page.html").read_text()
    assert f"{found['top1']:.2f}%" in page
    assert f"{found['ece']:.2f}%" in page
    assert "Reliability" in page


def test_crops_are_averaged_and_so_are_networks(networks, data, capsys):
    images, labels = images_of(data)
    crops = [mirrored(F.five_crop(F.resize(image, 40, antialias=True), [32, 32])) for image in images]
    each = [
        torch.stack([probabilities(network, list(views)) for views in zip(*crops)]).mean(0)
        for network in networks.values()
    ]
    for files, expected in ((list(networks)[:1], each[0]), (list(networks), torch.stack(each).mean(0))):
        found = evaluated(files, data, "--crops", 10)
        assert found["top1"] == pytest.approx(100 * float((expected.argmax(1) == labels).float().mean()))
        assert found["loss"] == pytest.approx(float(torch.nn.functional.nll_loss(expected.log(), labels)), rel=1e-3)
    said = capsys.readouterr().out
    assert "10 crops of 32 pixels from images whose shorter side is resized to 40" in said
    assert "the mean of 2 (debug) on 24 images" in said


def test_the_144_crops_are_those_of_the_paper(networks, data):
    """Whole squares apart, which are resized from the image itself, all crops come from the resized image."""
    weights, network = next(iter(networks.items()))
    images, labels = images_of(data)
    total = torch.zeros(len(images), len(NAMES))
    for shorter in (37, 41, 46, 50):  # 8 to 11 sevenths of 32
        for place in (0, 0.5, 1):
            crops = []
            for image in images:
                resized = F.resize(image, shorter, antialias=True)
                top, left = (round(place * (side - shorter)) for side in resized.shape[1:])
                side = min(image.shape[1:])
                offset = [round(place * (length - side)) for length in image.shape[1:]]
                whole = F.resized_crop(image, *offset, side, side, [32, 32], antialias=True)
                square = F.crop(resized, top, left, shorter, shorter)
                crops.append(mirrored((*F.five_crop(square, [32, 32]), whole)))
            total += sum(probabilities(network, list(views)) for views in zip(*crops))
    expected = total / 144
    found = evaluated(weights, data, "--crops", 144)
    assert found["top1"] == pytest.approx(100 * float((expected.argmax(1) == labels).float().mean()))
    assert found["loss"] == pytest.approx(float(torch.nn.functional.nll_loss(expected.log(), labels)), rel=1e-3)


def test_an_ensemble_puts_outputs_in_one_order(networks, data, tmp_path):
    first = next(iter(networks))
    turned = inception.read_weights(first)
    order = [3, 1, 0, 2, 6, 5, 4]
    state = {name: tensor[order] if name.startswith("classifier") else tensor for name, tensor in turned.state.items()}
    names = [NAMES[place] for place in order]
    inception.save_weights(tmp_path / "turned.safetensors", state, {**turned.metadata, "classes": names})
    alone = evaluated(first, data)
    together = evaluated([first, tmp_path / "turned.safetensors"], data)
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    saved(tmp_path / "other.safetensors", 3, ["ant", "bee", "cat", "dog", "eel", "fox", "yak"])
    with pytest.raises(ConfigError, match=r"other.safetensors does not know the class 'gnu'"):
        evaluated([first, tmp_path / "other.safetensors"], data)
    saved(tmp_path / "fewer.safetensors", 3, NAMES[:5])
    with pytest.raises(ConfigError, match=r"tells 7 classes apart and .*fewer.safetensors 5"):
        evaluated([first, tmp_path / "fewer.safetensors"], data)


def test_parquet_and_what_cannot_be_written(networks, data, tmp_path, monkeypatch):
    weights = next(iter(networks))
    evaluated(weights, data, "--predictions", tmp_path / "guesses.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "guesses.parquet")
    assert table.column_names[:4] == ["image", "class", "guess1", "probability1"]
    assert table.num_rows == 24
    with pytest.raises(ConfigError, match=r"written as \*.csv or \*.parquet, not as guesses.txt"):
        evaluated(weights, data, "--predictions", tmp_path / "guesses.txt")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"Parquet needs pyarrow, of the extra `parquet`"):
        evaluated(weights, data, "--predictions", tmp_path / "guesses.parquet")
    for option in ("--predictions", "--report", "--json"):
        name = {"--predictions": "g.csv", "--report": "p.html", "--json": "r.json"}[option]
        with pytest.raises(ConfigError, match=rf"cannot write /proc/no/{name}"):
            evaluated(weights, data, option, f"/proc/no/{name}")


def test_an_image_that_cannot_be_read_has_no_guesses(networks, data, tmp_path):
    for file in [file for kind in NAMES[:2] for file in sorted(data.glob(f"val/{kind}/*.png"))[:3]]:
        there = tmp_path / "data" / file.relative_to(data)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(file.read_bytes())
    there.write_bytes(there.read_bytes()[:40])
    skipped = ["--data.on_error", "skip", "--predictions", tmp_path / "guesses.csv"]
    for crops in (1, 10):
        found = evaluated(next(iter(networks)), tmp_path / "data", *skipped, "--crops", crops)
        assert (found["count"], found["unreadable"]) == (5, 1)
        assert sum(row["images"] for row in found["per_class"]) == 5
        with (tmp_path / "guesses.csv").open(newline="") as file:
            assert [row["guess1"] == "" for row in csv.DictReader(file)] == [False] * 5 + [True]


def test_trained_weights_beside_their_averages(data, tmp_path, capsys):
    trained, averaged = (saved(tmp_path / f"{seed}.safetensors", seed) for seed in (5, 6))
    metadata = inception.read_weights(tmp_path / "6.safetensors").metadata
    metadata["evaluation"] = {**SHOWN, "average": True}
    run = tmp_path / "run/checkpoints"
    run.mkdir(parents=True)
    content = {"format": "inception-checkpoint-2", "metadata": metadata, "network": trained.state_dict()}
    torch.save({**content, "ema": averaged.state_dict()}, run / "step-000000010.pt")
    inception.save_weights(run / "best.safetensors", averaged.state_dict(), metadata)
    found = evaluated(tmp_path / "run", data, "--weights.kind", "both", "--report", tmp_path / "page.html")
    for result, seed in ((found, 6), (found["trained"], 5)):
        assert result["loss"] == pytest.approx(evaluated(tmp_path / f"{seed}.safetensors", data)["loss"])
    assert "top-1, trained weights" in (tmp_path / "page.html").read_text()
    assert "averaged weights" in capsys.readouterr().out
    trained_alone = evaluated(tmp_path / "run", data, "--weights.kind", "trained")
    assert trained_alone["loss"] == found["trained"]["loss"]
    for file, kind, message in (
        (run / "best.safetensors", "both", r"best.safetensors holds averaged weights alone; a run's checkpoints"),
        (tmp_path / "5.safetensors", "averaged", r"5.safetensors holds trained weights alone"),
        (tmp_path, "both", "holds no checkpoint, in which trained and averaged weights stand"),
    ):
        with pytest.raises(NetworkError, match=message):
            evaluated(file, data, "--weights.kind", kind)
    torch.save({**content, "ema": None}, run / "step-000000011.pt")
    with pytest.raises(NetworkError, match=r"step-000000011.pt holds no averaged weights: its run kept none"):
        evaluated(tmp_path / "run", data, "--weights.kind", "both")


def test_several_ranks_give_the_same_numbers(networks, data, torchrun, tmp_path):
    alone = evaluated(list(networks), data, "--crops", 10, "--predictions", tmp_path / "alone.csv")
    options = ["--weights", *networks, "--data.path", data, "--data.batch_size", 16, "--crops", 10]
    options += ["--precision", "fp32"]
    options += ["--json", tmp_path / "ranks.json", "--predictions", tmp_path / "ranks.csv"]
    done = torchrun(["engine/evaluate.py", *options])
    assert done.returncode == 0, done.stderr
    ranks = json.loads((tmp_path / "ranks.json").read_text())
    for name in ("top1", "top5", "loss", "ece", "mce", "count", "mean_class_top1"):
        assert ranks[name] == pytest.approx(alone[name], rel=1e-5), name
    assert ranks["per_class"] == alone["per_class"]
    guesses = []
    for name in ("ranks.csv", "alone.csv"):
        with (tmp_path / name).open(newline="") as file:
            guesses.append([[row["image"], row["guess1"]] for row in csv.DictReader(file)])
    assert guesses[0] == guesses[1]
