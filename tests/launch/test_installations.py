"""A row of the table of installations, from the quickstart's record."""

from __future__ import annotations

import json

import pytest

import installations
from benchmarks.measuring.machine import LoadMeter

TRIXIE = {
    "command": "bash launch/quickstart.sh",
    "seconds": 254.0,
    "python": "3.13.5",
    "processor": "a processor",
    "cores": 2,
    "gpus": [],
    "top1": 58.1,
    "set_up": {
        "system": "Debian GNU/Linux 13 (trixie)",
        "installer": "pip 26.0",
        "seconds": 195.0,
        "received": 2_650_000_000,
        "disk": 5_900_000_000,
    },
}


@pytest.mark.parametrize(
    ("changes", "processor", "received"),
    [({}, "2 x a processor", "2.6 GB"), ({"gpus": ["a GPU"], "received": None}, "a GPU", "")],
)
def test_a_record_becomes_a_row(changes, processor, received, tmp_path):
    record = TRIXIE | changes
    record["set_up"] = TRIXIE["set_up"] | {"received": changes.get("received", 2_640_000_000)}
    (tmp_path / "quickstart.json").write_text(json.dumps(record))
    cells = [cell.strip() for cell in installations.row(tmp_path / "quickstart.json", LoadMeter()).split("|")[1:-1]]
    assert cells[:5] == ["Debian GNU/Linux 13 (trixie)", "3.13.5", processor, "pip 26.0", "bash launch/quickstart.sh"]
    assert cells[5:-1] == ["254", "195.0 s", received, "5.9 GB", "58.1%"]
    assert cells[-1].endswith("%")
