"""A study: what is asked is checked first, what is measured becomes the result, and some options ask for something else."""

import pytest

from benchmarks.measuring import BenchmarkError, positive
from benchmarks.reporting import Study
from benchmarks.reporting.results import read_results


@pytest.fixture
def study():
    study = Study("example", "What it compares.", batch_size=8)
    study.option("--rounds", type=positive, help="of its own")
    study.option("--worker", help="for a process that it starts")

    @study.check
    def completed(options):
        if options.rounds == 13:
            raise BenchmarkError("not thirteen")
        options.rounds = options.rounds or 2

    @study
    def main(options, result):
        result.add({"of": "ours"}, "rounds", [float(options.rounds)] * 3, beside=4)
        return ["beside"]

    return study


def test_a_result_holds_what_was_asked_as_completed_and_what_was_measured(study, tmp_path, capsys):
    assert study.main(["--output", str(tmp_path)]) == 0
    (result,) = read_results(tmp_path)
    assert result["benchmark"] == "example"
    assert (result["options"]["batch_size"], result["options"]["rounds"]) == (8, 2)
    assert result["rows"][0].values == [2.0, 2.0, 2.0]
    head = next(line for line in capsys.readouterr().out.splitlines() if "unit" in line)
    assert head.split()[-1] == "beside"


def test_what_is_refused_leaves_no_result(study, tmp_path):
    with pytest.raises(BenchmarkError, match="thirteen"):
        study.main(["--rounds", "13", "--output", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_an_option_may_ask_for_something_else(study, tmp_path):
    asked = []
    study.instead("worker")(lambda options: asked.append((options.worker, options.rounds)))
    assert study.main(["--worker", "this", "--output", str(tmp_path)]) == 0
    assert asked == [("this", 2)]
    assert list(tmp_path.iterdir()) == []
