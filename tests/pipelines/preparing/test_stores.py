"""What holds for every store that images can be kept in: the choice is recorded, said, refused where it cannot be made."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from archives import picture, write_folder
from pipelines import DataError, open_dataset
from pipelines.prepare import main
from pipelines.preparing import stores
from pipelines.preparing.rewriting import Rewritten


def prepare(*arguments: str | Path) -> None:
    assert main([*map(str, arguments), "--workers", "1"], None) == 0


def longer(data, header):
    """A rewriting that adds a byte to pictures of an even length and leaves others alone."""
    return Rewritten(None, "odd") if len(data) % 2 else Rewritten(data.tobytes() + b"\0", extension="jfif")


@pytest.fixture
def made_up(monkeypatch):
    """A store of that rewriting, which folders cannot hold."""
    monkeypatch.setitem(stores.STORES, "longer", stores.Store(("shards", "beton"), longer))


def test_what_a_store_does_is_said_recorded_and_kept_to(made_up, tmp_path: Path, capsys) -> None:
    data, out = write_folder(tmp_path / "in", each=12), tmp_path / "out"
    even = sum(len(path.read_bytes()) % 2 == 0 for path in data.rglob("train/*/*.jpg"))
    shutil.rmtree(data / "val")
    command = ("folder", data, "--to", "shards", "--store", "longer", "--output", out)
    prepare(*command)
    said = capsys.readouterr().out
    assert "--store longer: needs about 0.1 MB, images 1.00 times as large" in said
    assert "'s, and 1 min on 1 workers, judging by " in said
    assert f"--store longer: {24 - even} images stay as they are: {24 - even} odd\n" in said
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["job"]["store"], manifest["kept"]) == ("longer", {"odd": 24 - even})
    dataset = open_dataset(out, "train", progress=False)
    names = [dataset.name(index) for index in range(len(dataset))]
    assert sum(name.endswith(".jfif") for name in names) == even
    prepare(*command)  # its checksums are right
    said = capsys.readouterr().out
    assert "was prepared already" in said
    assert f"{24 - even} images stay" in said
    with pytest.raises(DataError, match="holds a preparation of store longer, not jpeg"):
        prepare("folder", data, "--to", "shards", "--output", out)


def test_a_store_that_cannot_be_made_is_refused_before_anything_is_written(
    made_up, tmp_path: Path, monkeypatch
) -> None:
    data, out = write_folder(tmp_path / "in"), tmp_path / "out"
    with pytest.raises(DataError, match="--store longer cannot be made --to folder; choose --to shards or beton"):
        prepare("folder", data, "--to", "folder", "--store", "longer", "--output", out)
    lacking = stores.Store(("shards",), longer, lambda: "no C compiler")
    monkeypatch.setitem(stores.STORES, "longer", lacking)
    with pytest.raises(DataError, match="--store longer cannot be made here: no C compiler"):
        prepare("folder", data, "--to", "shards", "--store", "longer", "--output", out)
    monkeypatch.setitem(stores.STORES, "longer", stores.Store(("shards",), longer))
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("usage", "total used free")(9, 8, 1))
    with pytest.raises(DataError, match="too little room"):
        prepare("folder", data, "--to", "shards", "--store", "longer", "--output", out)
    assert not out.exists()


def test_an_output_of_before_there_were_stores_is_taken_for_what_it_is(tmp_path: Path, capsys) -> None:
    data, out = write_folder(tmp_path / "in"), tmp_path / "out"
    command = ("folder", data, "--to", "shards", "--output", out)
    prepare(*command)
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["job"]["store"], manifest["kept"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    prepare(*command)
    assert "was prepared already" in capsys.readouterr().out


def test_images_made_smaller_are_rewritten_after_it(made_up, tmp_path: Path) -> None:
    data, out = write_folder(tmp_path / "in"), tmp_path / "out"
    (data / "train/cat/bad.jpg").write_bytes(b"no image")
    (data / "train/cat/small.jpg").write_bytes(picture(3, (16, 16)))
    prepare("folder", data, "--to", "shards", "--store", "longer", "--longest-side", "32", "--output", out)
    kept = json.loads((out / "manifest.json").read_text())["kept"]
    assert kept["unreadable"] == 1
    dataset = open_dataset(out, "train", progress=False)
    assert dataset.sizes(range(len(dataset))).max() == 32
    assert 0 < sum(dataset.name(index).endswith(".jfif") for index in range(len(dataset))) < len(dataset)
