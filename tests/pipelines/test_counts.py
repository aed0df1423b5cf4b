"""All that lies under a dataset's path is trained, or counted and named: train, doctor, prepare and evaluate agree with tar(1),
find(1) and Pillow on every form that datasets have, or each of the four says what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

import engine.evaluate
import engine.train
import inception
import pipelines.doctor
import pipelines.prepare
from engine.config.command_line import load_config
from engine.training.loaders import open_splits
from inception.weights.files import save_weights
from messy import DAMAGES, FORMS
from pipelines import DataError
from pipelines.datasets.dataset import Dataset
from pipelines.datasets.passed_over import PassedOver


def is_label(name: str) -> bool:
    """Of a file that only says of which class an image is."""
    return name.endswith((".cls", ".json", ".csv")) and not name.startswith("._")


def independent(root: Path, split: str, scratch: Path) -> list[Path]:
    """Every file of a split, as find(1) lists them below its folder and what tar(1) unpacks."""
    shards = [path for path in sorted(root.rglob("*.tar")) if split in path.name]
    for number, shard in enumerate(shards):
        for part, archive in enumerate(archives_in(shard.read_bytes())):
            place = scratch / split / f"{number}-{part}"
            place.mkdir(parents=True)
            subprocess.run(["tar", "-xf", "-", "-C", place], input=archive, check=True)
    if shards:
        where = [scratch / split]
    else:
        where = [
            path for path in root.rglob("*") if path.is_dir() and path.name in (split, {"val": "validation"}.get(split))
        ]
    where = where[:1] or [root]
    listed = subprocess.run(
        ["find", "-L", *where, "-not", "-type", "d", "-not", "-path", "*/.index/*", "-print0"],
        capture_output=True,
        text=True,
        check=False,
    )
    return [Path(line) for line in listed.stdout.split("\0") if line and not is_label(Path(line).name)]


def archives_in(data: bytes) -> list[bytes]:
    """The archives that `cat` put one behind the other: they end with two blocks of zeros, and more to 10 KiB."""
    parts = [part for part in re.split(rb"\0{5000,}(?=[a-z0-9./])", data) if part.strip(b"\0")]
    return [part + bytes(-len(part) % 512 + 1024) for part in parts]


def opens(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            return bool(image.size)
    except OSError:
        return False


def options(root: Path, named: dict[str, str]) -> list[str]:
    """What the commands are told of a dataset: its folder, unless its splits are named."""
    place = [] if "train" in named else ["--data.path", str(root)]
    return place + [word for name, value in named.items() for word in (f"--data.{name}", value)]


def of_pipelines(root: Path, named: dict[str, str]) -> list[str]:
    return [word for word in options(root, named) if word != "--data.path"]


def trained(root: Path, capsys, named: dict[str, str]) -> dict[str, Dataset]:
    datasets = open_splits(load_config(options(root, named)).data, progress=True)
    said = capsys.readouterr().out
    for dataset in datasets:
        for remark in dataset.remarks:
            assert f"{dataset.split}: {remark}\n" in said
    return {dataset.split: dataset for dataset in datasets}


def dry_run(root: Path, scratch: Path) -> None:
    network = ["--network.name", "debug", "--data.batch_size", "2", "--data.backend", "native"]
    assert engine.train.main(["--dry-run", *options(root, {}), *network, "--run.dir", str(scratch / "run")]) == 0


def examined(root: Path, scratch: Path, named: dict[str, str]) -> dict:
    assert (
        pipelines.doctor.main(
            [*of_pipelines(root, named), "--workers", "1", "--json", str(scratch / "doctor.json")], None
        )
        == 0
    )
    return json.loads((scratch / "doctor.json").read_text())["splits"]


def prepared(root: Path, scratch: Path, named: dict[str, str]) -> dict:
    arguments = [
        "folder",
        *of_pipelines(root, named),
        "--to",
        "shards",
        "--output",
        str(scratch / "prepared"),
        "--workers",
        "1",
    ]
    assert pipelines.prepare.main(arguments, None) == 0
    return json.loads((scratch / "prepared/manifest.json").read_text())


def evaluated(root: Path, split: str, scratch: Path, classes: list[str], named: dict[str, str]) -> dict:
    network = inception.create_model("debug", num_classes=len(classes))
    save_weights(scratch / "weights.safetensors", network.state_dict(), {**network.metadata(), "classes": classes})
    arguments = ["--weights", str(scratch / "weights.safetensors"), *options(root, named), "--split", split]
    arguments += ["--data.backend", "native", "--data.workers", "1", "--data.on_error", "skip", "--precision", "fp32"]
    threads = torch.get_num_threads()
    try:
        assert engine.evaluate.main([*arguments, "--json", str(scratch / "evaluated.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    return json.loads((scratch / "evaluated.json").read_text())


def as_json(passed_over: PassedOver) -> dict:
    return json.loads(json.dumps(passed_over))


@pytest.mark.parametrize("form", FORMS)
def test_all_tools_count_what_lies_there(tmp_path: Path, capsys, form: str) -> None:
    root, scratch = tmp_path / "data", tmp_path / "scratch"
    root.mkdir()
    scratch.mkdir()
    named = FORMS[form](root) or {}
    datasets = trained(root, capsys, named)
    doctor, manifest = examined(root, scratch, named), prepared(root, scratch, named)
    train = datasets["train"]
    for split, dataset in datasets.items():
        count, passed_over = len(dataset), dataset.passed_over
        beside = passed_over.get("folder beside the splits", (0, []))[0]
        assert doctor[split]["images"] == manifest["splits"][split]["samples"] == count
        assert doctor[split]["passed_over"] == as_json(passed_over)
        assert manifest["passed_over"][split] == as_json(passed_over)
        assert doctor[split]["remarks"] == manifest["remarks"][split] == dataset.remarks
        result = evaluated(root, split, scratch, list(dataset.classes), named)
        assert result["count"] + result["unreadable"] == count
        assert result["unreadable"] == len(doctor[split]["conditions"]["corrupt"])
        said = capsys.readouterr().out
        assert all(f"{split}: {remark}\n" in said for remark in dataset.remarks)
        assert set(doctor[split]["classes"]["counts"]) == set(dataset.classes)
        if form in ("folders of all", "a third held out", "FFCV's files"):
            continue
        files = independent(root, split, scratch)
        absent = sum(passed_over.get(kind, (0, []))[0] for kind in NOT_FILES)
        assert count + passed_over.total - beside - absent == len(files)
        if not passed_over:
            assert count - result["unreadable"] == sum(map(opens, files))
    assert {name for name, count in manifest["splits"]["train"]["classes"].items() if count} == set(train.classes)
    if form in ("folders of all", "a third held out"):
        assert manifest["held_out"] == float(named.get("held_out", 0.1))
        files = [path for path in root.glob("*/*.jpg") if opens(path)]
        assert sum(map(len, datasets.values())) == len(files)


def test_a_dry_run_says_what_would_be_trained_and_what_is_passed_over(tmp_path: Path, capsys) -> None:
    root = tmp_path / "data"
    root.mkdir()
    FORMS["shards with names that come again"](root)
    dry_run(root, tmp_path)
    said = capsys.readouterr().out
    assert "data: 21 images to train on, 12 to evaluate, 3 classes" in said
    assert "train: 1 file passed over: 1 replaced by a later file of the same name (" in said
    assert not (tmp_path / "run").exists()


# Passed over, and no files to find(1): what a list names, what an archive replaces, links to folders.
NOT_FILES = ("listed, but not there", "replaced by a later file of the same name", "link to a folder above itself")


@pytest.mark.parametrize("damage", DAMAGES)
def test_all_tools_name_what_is_wrong(tmp_path: Path, capsys, damage: str) -> None:
    root, scratch = tmp_path / "data", tmp_path / "scratch"
    root.mkdir()
    scratch.mkdir()
    make, says = DAMAGES[damage]
    make(root)
    for tool in (
        lambda: trained(root, capsys, {}),
        lambda: dry_run(root, scratch),
        lambda: examined(root, scratch, {}),
        lambda: prepared(root, scratch, {}),
        lambda: evaluated(root, "train", scratch, ["cat", "dog", "fox"], {}),
    ):
        with pytest.raises(DataError, match=says) as error:
            tool()
        assert "\n" not in str(error.value)
    assert not (scratch / "prepared").exists()
