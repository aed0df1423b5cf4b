"""The study of large datasets, on a small one."""

import json

from benchmarks.studies import dataset_scale
from pipelines.datasets import indexing
from pipelines.preparing import catalogue

SIZES = [
    "--samples",
    "20000",
    "--classes",
    "70000",
    "--listed",
    "1000",
    "--images",
    "1200",
    "--workers",
    "2",
    "--rounds",
    "1",
]


def test_it_measures_all_its_parts_and_saves_after_each(tmp_path, monkeypatch) -> None:
    """In this process, where the study takes a new one for each figure: what it changes there is put back here."""
    for module, name in (
        (indexing, "usable_cores"),
        (indexing, "_FEW"),
        (indexing, "_THREADS"),
        (catalogue, "open_source"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    saved = []

    def here(function, *arguments, open_files=None):
        files = list(tmp_path.glob("*.json"))
        saved.append(len(json.loads(files[0].read_text())["rows"]) if files else 0)
        return function(*arguments)

    monkeypatch.setattr(dataset_scale, "apart", here)
    assert dataset_scale.main([*SIZES, "--output", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    rows = json.loads(file.read_text())["rows"]
    assert sorted(set(saved)) == [0, 5, 7, 10]  # rows that were saved before each figure, by parts
    assert all(row["value"] >= 0 for row in rows)
    found = {(row["case"]["what"], row["metric"]): row["value"] for row in rows}
    assert found["index of 20,000 samples, 70,000 classes", "bytes a sample on disk"] < 200
    assert found["index of 20,000 samples, 70,000 classes", "classes with samples"] == 20_000
    assert {what for what, metric in found if metric == "images/s"} >= {
        "reading at random from 600 shards, 1,024 files may be open",
        "indexing 60 shards, one thread",
        "indexing class folders, 2 processes",
    }
