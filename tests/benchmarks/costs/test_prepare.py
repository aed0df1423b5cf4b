"""The benchmark of preparation runs both sides and records them."""

from benchmarks.costs import prepare
from benchmarks.reporting.results import read_results


def test_both_sides_are_measured_in_turns(tmp_path, capsys):
    results = tmp_path / "results"
    arguments = ["--images", "40", "--windows", "1", "--workers", "1"]
    assert prepare.main([*arguments, "--directory", str(tmp_path), "--output", str(results)]) == 0
    (result,) = read_results(results)
    by_what = {row.case["what"]: row for row in result["rows"]}
    tar, ours, ratio = (by_what[name] for name in (prepare.TAR, prepare.PREPARE, "prepare over tar and each header"))
    assert tar.failure is None
    assert ours.failure is None
    assert abs(ratio.value - tar.value / ours.value) < 1e-9 * ratio.value
    assert not list(tmp_path.glob("prepare-*"))
    assert "goal: at most 1.3 times as long" in capsys.readouterr().out
