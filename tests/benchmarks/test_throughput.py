"""The throughput script from end to end on the miniature network, alone, beside a peer, and on two ranks."""

import json
import re
from dataclasses import replace

import pytest

from benchmarks import throughput
from benchmarks.reporting.advice import judge
from benchmarks.reporting.results import read_results
from benchmarks.studies import throughput_case
from engine.faults.exit_status import USER_ERRORS

QUICK = ["--networks", "debug", "--batch-sizes", "16", "--windows", "2", "--seconds", "0.1", "--budget", "inf"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.distributed.device.usable_cores", lambda: 1)  # as `one_thread` has it
        # A change that takes no compilation, whatever this machine's limiter is.
        patch.setattr(throughput_case, "judge", lambda seen: replace(judge(seen), change={"data.prefetch": "4"}))
        assert throughput.main([*QUICK, "--peers", "torchvision", "--stores", "windows", "--output", str(folder)]) == 0
    return read_results(folder)[0] | {"folder": folder}


def test_all_parts_are_measured_and_add_up(result):
    plain = [r for r in result["rows"] if r.case["of"] == "ours, native" and "--" not in r.case["setting"]]  # no trial
    rows = {(r.case["part"], r.metric): r for r in plain}
    step, data, both = (rows[part, "images/s"] for part in ("step", "data", "end to end"))
    assert min(step.value, data.value, both.value) > 0
    assert len(step.values) == 2
    assert step.details["step_seconds_p95"] >= step.details["step_seconds"] > 0
    assert step.details["process_gib"] > 0.1
    share = rows["end to end", "share of the step's speed"]
    assert share.low <= both.value / step.value <= share.high
    bound = rows["step", "share of the machine's bound"]
    assert bound.value == pytest.approx(step.value / bound.details["bound"])


def test_a_verdict_names_the_limiter_in_words(result):
    limits = ("The input holds training back", "The step holds training back")
    assert any(limit in note for note in result["notes"] for limit in limits)


def test_what_the_verdict_proposes_is_measured_beside_the_original(result):
    assert any(note.startswith("Tried --data.prefetch 4: ") and "of what it was" in note for note in result["notes"])
    assert any(row.case["setting"].endswith("--data.prefetch 4") and row.value > 0 for row in result["rows"])


def test_the_peer_stands_beside_ours_with_its_setting_and_its_work_checked(result):
    peer = next(row for row in result["rows"] if row.case["of"] == "torchvision")
    assert peer.failure is None
    assert peer.details["of_ours"] > 0
    loaders = [row.details["cpu_cores"] for row in result["rows"] if row.case["part"] == "data"]
    assert len(loaders) == 3
    assert min(loaders) > 0
    assert any(note.startswith("torchvision: ImageFolder") and note.endswith("Equal work.") for note in result["notes"])


def test_a_store_stands_beside_the_jpegs(result):
    store = next(row for row in result["rows"] if row.case["of"] == "native on windows")
    assert store.failure is None
    assert (store.case["part"], store.value > 0) == ("data", True)


def test_the_picture_and_what_could_not_be_measured(result):
    assert (result["folder"] / result["pictures"][0]).stat().st_size > 5_000
    assert any("No GPU here" in note for note in result["notes"])
    assert any("are excluded" in note for note in result["notes"])
    assert result["load"]["load_average"] >= 0
    assert json.dumps(result["options"])


def test_a_budget_leaves_out_peers_and_rounds_and_says_so_in_one_line(tmp_path, capsys):
    few = ["--windows", "100000", "--seconds", "0.01", "--peers", "torchvision", "--budget", "2", "--output"]
    assert throughput.main(["--networks", "debug", "--batch-sizes", "16", *few, str(tmp_path)]) == 0
    (note,) = [note for note in read_results(tmp_path)[0]["notes"] if note.startswith("Left out")]
    assert re.search(r"\d+ of 100000 windows", note)
    printed = capsys.readouterr().out
    assert printed.index("measuring the limits") < printed.index("warming up: ours") < printed.index("round 1 of")


def test_no_time_at_all_measures_ours_once_and_no_peer(tmp_path):
    none = ["--seconds", "0.01", "--peers", "torchvision", "--budget", "0", "--output", str(tmp_path)]
    assert throughput.main(["--networks", "debug", "--batch-sizes", "16", *none]) == 0
    result = read_results(tmp_path)[0]
    assert {row.case["of"] for row in result["rows"]} == {"ours, native"}
    assert all(len(row.values) == 1 for row in result["rows"])
    (note,) = [note for note in result["notes"] if note.startswith("Left out")]
    assert "torchvision's loader, 4 of 5 windows" in note


def test_two_ranks_measure_together(torchrun, tmp_path):
    arguments = [*QUICK, "--no-trial", "--output", str(tmp_path)]
    finished = torchrun(["benchmarks/throughput.py", *arguments], processes=2)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Written:") == 1
    result = read_results(tmp_path)[0]
    rows = {(row.case["part"], row.metric): row for row in result["rows"]}
    assert rows["without exchange", "images/s"].value > 0
    assert "torchrun --nproc_per_node=2" in result["command"]
    # 32 images a step: a window's rate is over both ranks, as the window shows that other work disturbed least.
    step = rows["step", "images/s"]
    assert max(step.values) == pytest.approx(32 / step.details["step_seconds"], rel=0.5)


def test_bad_input_is_one_line_and_status_2(run_command):
    finished = run_command(["benchmarks/throughput.py", "--batch-sizes", "0"])
    assert finished.returncode == 2
    assert finished.stderr == "error: argument --batch-sizes: 0 is below 1 (--help lists the options)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "inception_v9", "--peers"], "unknown network 'inception_v9'"),
        (["--data", "nowhere", "--peers"], "nowhere"),
    ],
)
def test_bad_input_ends_before_anything_is_measured(arguments, message):
    with pytest.raises(USER_ERRORS, match=message):
        throughput.main([*QUICK, *arguments])
