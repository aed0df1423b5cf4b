"""Several labels an image, from shards' JSON and from lists, are the same classes either way; what is no list is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import DataError, open_dataset
from pipelines.doctor import main as doctor
from pipelines.prepare import main as prepare

WANTED = {"a": ["cat", "dog"], "b": ["cat"], "c": [], "d": ["bird", "cat", "dog"]}


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


def shard(root: Path, says: dict[str, object]) -> Path:
    root.mkdir(parents=True)
    with tarfile.open(root / "train-000.tar", "w") as tar:
        for key, content in says.items():
            for name, data in ((f"{key}.jpg", jpeg()), (f"{key}.json", json.dumps(content).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return root


def listed(root: Path, text: str, heading: str) -> Path:
    (root / "train").mkdir(parents=True)
    for name in WANTED:
        (root / "train" / f"{name}.jpg").write_bytes(jpeg())
    (root / "train.csv").write_text(f"{heading}\n{text}")
    return root


def found(path: Path, **how: object) -> dict[str, list[str]]:
    dataset = open_dataset(path, "train", progress=False, **how)
    assert dataset.combinations is not None
    rows = dataset.combinations[dataset.labels(np.arange(len(dataset)))]
    names = [
        dataset.short_name(index).rpartition("/")[2].rpartition(":")[2].partition(".")[0]
        for index in range(len(dataset))
    ]
    return {name: [dataset.classes[k] for k in np.flatnonzero(row)] for name, row in zip(names, rows)}


@pytest.mark.parametrize("field", ["labels", "tags", "categories", "label"])
def test_a_json_lists_labels(tmp_path, field):
    assert found(shard(tmp_path / "data", {key: {field: names} for key, names in WANTED.items()})) == WANTED


def test_numbers_are_classes_by_number(tmp_path):
    dataset = open_dataset(shard(tmp_path / "data", {"a": {"labels": [0, 3]}, "b": {"labels": [1.0]}}), "train")
    assert dataset.classes == ("0", "1", "2", "3")
    assert dataset.combinations.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0]]


LISTS = {
    "bars": ("image,labels", "a.jpg,dog|cat\nb.jpg,cat\nc.jpg,\nd.jpg,bird | cat|dog\n"),
    "semicolons": ("image,tags", "a.jpg,dog;cat\nb.jpg,cat\nc.jpg,\nd.jpg,bird;cat;dog\n"),
    "json": ("image\tlabels", 'a.jpg\t["cat", "dog"]\nb.jpg\t["cat"]\nc.jpg\t[]\nd.jpg\t["bird","cat","dog"]\n'),
    "as Python writes them": (
        "image\tlabels",
        "a.jpg\t['cat', 'dog']\nb.jpg\t['cat']\nc.jpg\t[]\nd.jpg\t['bird','cat','dog']\n",
    ),
    "a column a class": ("filename,cat,dog,bird", "a.jpg,1,1,0\nb.jpg,1,0,0\nc.jpg,0,0,0\nd.jpg,1.0,1,1\n"),
}


@pytest.mark.parametrize("form", LISTS)
def test_a_list_has_labels_in_each_form(tmp_path, form):
    heading, text = LISTS[form]
    assert found(listed(tmp_path / "data", text, heading)) == WANTED


def test_classes_of_the_training_split_give_the_order(tmp_path):
    heading, text = LISTS["bars"]
    path = listed(tmp_path / "data", text, heading)
    assert found(path, classes=["dog", "bird", "cat", "fish"])["d"] == ["dog", "bird", "cat"]
    with pytest.raises(DataError, match="holds class 'bird', which is not among the 2 expected classes"):
        open_dataset(path, "train", classes=["cat", "dog"])


def test_a_name_in_a_list_may_hold_an_apostrophe(tmp_path):
    path = listed(tmp_path / "data", 'a.jpg\t["Grevy\'s zebra", "cat"]\nb.jpg\t["cat"]\n', "image\tlabels")
    assert found(path) == {"a": ["Grevy's zebra", "cat"], "b": ["cat"]}


@pytest.mark.parametrize("cell", ["[" * 100_000, '["cat", true]', "[cat"], ids=["deep", "no name", "open"])
def test_a_cell_that_is_no_list_is_one_line(tmp_path, cell):
    with pytest.raises(DataError, match=r"train\.csv, line 2.*label") as caught:
        open_dataset(listed(tmp_path / "data", f"a.jpg\t{cell}\nb.jpg\t[]\n", "image\tlabels"), "train", progress=False)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_one_label_an_image_stays_what_it_was(tmp_path):
    path = listed(tmp_path / "data", "a.jpg,cat\nb.jpg,dog\nc.jpg,cat\nd.jpg,cat\n", "image,labels")
    dataset = open_dataset(path, "train")
    assert dataset.combinations is None
    assert dataset.classes == ("cat", "dog")


REFUSED = {
    "a number a class": ({"labels": [0, 1, 0]}, "has the label '0' twice"),
    "no names": ({"labels": [{"id": 3}]}, "among several labels, which are names or numbers of classes"),
    "none at all": ({"labels": []}, "no image has any label"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_is_no_list_of_labels_is_refused(tmp_path, which):
    content, words = REFUSED[which]
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(shard(tmp_path / "data", {"a": content}), "train", progress=False)
    assert "\n" not in str(caught.value)


def test_a_flag_that_is_none_is_named_with_its_line(tmp_path):
    path = listed(tmp_path / "data", "a.jpg,1,0\nb.jpg,1,x\n", "filename,cat,dog")
    with pytest.raises(DataError, match="line 3: expected 0 or 1 for class 'dog', got 'x'"):
        open_dataset(path, "train", progress=False)


def test_other_tools_say_that_they_do_not_take_them(tmp_path):
    path = shard(tmp_path / "data", {key: {"labels": names} for key, names in WANTED.items()})
    with pytest.raises(DataError, match=r"has several labels an image, which doctor\.py does not take"):
        doctor([str(path)], None)
    with pytest.raises(DataError, match=r"has several labels an image, which prepare\.py does not take"):
        prepare(["folder", str(path), "--to", "shards", "--output", str(tmp_path / "out"), "--workers", "1"], None)
