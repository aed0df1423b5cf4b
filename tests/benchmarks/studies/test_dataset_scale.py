"""The study of large datasets, on a small one."""

import json

from benchmarks.studies import dataset_scale


def test_it_measures_all_its_parts(tmp_path) -> None:
    sizes = ["--samples", "20000", "--classes", "70000", "--listed", "1000", "--images", "1200", "--rounds", "1"]
    assert dataset_scale.main([*sizes, "--output", str(tmp_path)]) == 0
    rows = json.loads(next(tmp_path.glob("*.json")).read_text())["rows"]
    assert all(row["value"] >= 0 for row in rows)
    assert {"s to open", "bytes a sample on disk", "bytes a sample in memory", "images/s"} <= {
        row["metric"] for row in rows
    }
