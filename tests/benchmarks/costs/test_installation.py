"""The table of installations: from the quickstart's records to the document."""

from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks.costs import installation
from benchmarks.measuring.command_line import BenchmarkError

TRIXIE = {
    "command": "bash launch/quickstart.sh",
    "seconds": 254.0,
    "python": "3.13.5",
    "processor": "a processor",
    "cores": 2,
    "gpus": [],
    "packages": {"torch": "2.15.0"},
    "top1": 58.1,
    "top5": 93.0,
    "count": 1000,
    "set_up": {
        "command": "bash launch/setup.sh",
        "python": "3.13.5",
        "system": "Debian GNU/Linux 13 (trixie)",
        "installer": "pip 26.0",
        "stages": [{"stage": "virtual environment", "well": True, "seconds": 5.0, "received": 1, "disk": 2}],
        "seconds": 195.0,
        "received": 2_650_000_000,
        "disk": 5_900_000_000,
        "left_out": [],
        "works": True,
    },
}
FORKY = TRIXIE | {
    "python": "3.14.7",
    "gpus": ["a GPU"],
    "others": 0.25,
    "set_up": TRIXIE["set_up"] | {"system": "Debian GNU/Linux forky/sid", "received": None},
}


@pytest.fixture
def records(tmp_path):
    files = [tmp_path / "trixie.json", tmp_path / "forky.json"]
    for file, record in zip(files, (TRIXIE, FORKY)):
        file.write_text(json.dumps(record))
    return files


def test_records_become_a_table_in_the_document(records, tmp_path):
    results, document = tmp_path / "results", tmp_path / "page.md"
    assert installation.main([*map(str, records), "--output", str(results)]) == 0
    document.write_text("<!-- benchmark installation -->\n<!-- end -->\n")
    assert report.main(["--results", str(results), "--documents", str(document)]) == 0
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in document.read_text().splitlines()
        if line.startswith("|")
    ]
    trixie, forky = (dict(zip(head, line, strict=True)) for line in lines)
    assert trixie["distribution"] == "Debian GNU/Linux 13 (trixie)"
    assert trixie["python"] == "3.13.5"
    assert trixie["processor"] == "2 x a processor"
    assert trixie["command"] == "bash launch/quickstart.sh"
    assert (trixie["median (95% interval)"], trixie["unit"]) == ("254", "seconds")
    assert trixie["set up seconds"] == "195.0 s"
    assert trixie["received bytes"] in ("2.6 GB", "2.7 GB")
    assert trixie["disk bytes"] == "5.9 GB"
    assert trixie["top1 share"] == "58.1%"
    assert trixie["others share"] == ""
    assert forky["processor"] == "a GPU"
    assert forky["received bytes"] == ""
    assert forky["others share"] == "25.0%"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is not a record"),
        ("no json", "is not a record"),
        ("[]", "is not a record"),
        (json.dumps({"top1": 1.0}), "'set_up'"),
        (json.dumps(TRIXIE | {"set_up": None}), "installed nothing"),
    ],
)
def test_what_is_no_record_is_refused_by_name(text, said, tmp_path):
    file = tmp_path / "record.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BenchmarkError, match=said) as refused:
        installation.main([str(file), "--output", str(tmp_path / "results")])
    assert "record.json" in str(refused.value)
    assert not (tmp_path / "results").exists()
