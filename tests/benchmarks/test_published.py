"""The table of published weights: what is stated beside what is measured, on any dataset with random weights."""

import pytest

from benchmarks import published
from benchmarks.reporting.results import read_results
from inception import NetworkError, create_model, list_pretrained
from pipelines import sample_path
from pipelines.tools.parity import photos


@pytest.fixture
def data(tmp_path):
    for number, photo in enumerate(photos(4)):
        folder = tmp_path / "data/val" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        photo.save(folder / f"{number}.jpg")
    return tmp_path / "data"


def test_stated_and_measured_stand_beside_each_other(data, tmp_path, capsys):
    name = "torchvision:googlenet.IMAGENET1K_V1"
    options = ["--data.path", data, "--weights", name, "--random", "--batch-size", 2, "--output", tmp_path / "results"]
    assert published.main([str(option) for option in options]) == 0
    (result,) = read_results(tmp_path / "results")
    rows = {row.metric: row for row in result["rows"]}
    assert rows["top-1 stated, %"].value == 69.778
    assert rows["top-5 stated, %"].value == 89.53
    assert rows["top-1 measured, %"].value in (0, 25, 50, 75, 100)
    assert rows["top-5 measured, %"].value == 100
    assert rows["top-1 measured, %"].case == {"weights": name, "shown": "bilinear, 256 to 224", "images": 4}
    assert "as torchvision:googlenet.IMAGENET1K_V1 has it" in capsys.readouterr().out


def test_the_embedded_sample_with_random_weights(tmp_path, monkeypatch):
    """All of it, shown as the publisher does; the trunk is a small one, since large ones take minutes."""
    monkeypatch.setattr(published, "create_model", lambda _, classes: create_model("debug", classes, width=0.25))
    names = list_pretrained("googlenet")
    options = ["--data.path", sample_path(), "--random", "--batch-size", 50, "--output", tmp_path, "--weights", *names]
    assert published.main([str(option) for option in options]) == 0
    (result,) = read_results(tmp_path)
    rows = {row.metric: row for row in result["rows"]}
    assert {row.case["weights"] for row in result["rows"]} == set(names)
    assert rows["top-1 measured, %"].case == {"weights": names[0], "shown": "bilinear, 256 to 224", "images": 1000}
    assert 0 < rows["top-1 measured, %"].value < rows["top-5 measured, %"].value < 100
    assert any("random weights" in note for note in result["notes"])


def test_what_cannot_be_fetched_is_a_row_that_says_so(data, tmp_path, monkeypatch):
    def unreachable(arguments):
        raise NetworkError("there is no network")

    monkeypatch.setattr("engine.evaluate.main", unreachable)
    options = ["--data.path", data, "--weights", "timm:inception_v4.tf_in1k", "--output", tmp_path / "results"]
    assert published.main([str(option) for option in options]) == 0
    (result,) = read_results(tmp_path / "results")
    assert [row.failure for row in result["rows"]] == ["there is no network"]
