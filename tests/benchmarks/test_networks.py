"""benchmarks/networks.py: the contestants of a row differ in the network alone, and the file holds what was measured."""

import json

import pytest

from benchmarks.networks import main


def test_networks_side_by_side(tmp_path, capsys):
    small = ["--networks", "googlenet", "--batch-sizes", "2", "--precisions", "fp32", "--resolution", "32"]
    quick = ["--windows", "2", "--seconds", "0", "--apart"]
    assert main([*small, *quick, "--output", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("networks-*.json")
    rows = json.loads(file.read_text())["rows"]
    rates = {(r["case"]["work"], r["case"].get("contestant")) for r in rows if r["metric"] == "images/s"}
    contestants = ("ours", "ours, convolutions apart", "ours, normalisation apart", "torchvision")
    assert rates == {(work, contestant) for work in ("training", "inference") for contestant in contestants}
    ratios = {(r["case"]["work"], r["case"]["ours over"]) for r in rows if r["metric"] == "times as fast"}
    assert ratios == {(work, other) for work in ("training", "inference") for other in contestants[1:]}
    assert [r["case"]["contestant"] for r in rows if r["metric"] == "seconds"] == ["ours", "torchvision"]
    assert all(row["failure"] is None and row["value"] > 0 for row in rows)
    assert "torchvision" in capsys.readouterr().out


def test_mistakes_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["--networks", "resnet50"])
    assert "invalid choice" in capsys.readouterr().err
