"""The scaling model against arithmetic, simulation and published scalings; the script on the ranks of this machine."""

import itertools

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.measuring.scaling_model import (
    INTERCONNECTS,
    Interconnect,
    ScalingModel,
    expected_maximum,
    fit_compute,
    fit_links,
    fit_overlap,
    published_scalings,
)
from benchmarks.reporting.results import read_results

LINKS = Interconnect("test", ranks_per_node=4, within=100.0, node=10.0, latency=0.0)


def test_an_all_reduce_within_and_among_nodes():
    assert LINKS.all_reduce(1, 1000) == 0
    assert LINKS.all_reduce(4, 1000) == pytest.approx(2 * 3 / 4 * 1000 / 100)
    assert LINKS.all_reduce(8, 1000) == pytest.approx(2 * 3 / 4 * 1000 / 100 + 2 * 1 / 2 * 1000 / 10)


@pytest.mark.parametrize("ranks", [2, 8, 64, 512])
def test_the_slowest_of_many_is_as_slow_as_in_a_simulation(ranks):
    draws = np.random.default_rng(0).standard_normal((4000, ranks)).max(axis=1)
    assert expected_maximum(ranks) == pytest.approx(draws.mean(), abs=0.05)
    assert expected_maximum(1) == 0


def test_communication_is_hidden_behind_the_backward_pass_but_for_its_last_bucket():
    # Exchange of 4 ranks: 1.5 * gradients / 100 = 0.15 s, a tenth of it in the last bucket; a step of 1 s hides the rest.
    model = ScalingModel(fixed=0.5, per_image=0.05, gradients=10.0, jitter=0.0, bucket=1.0)
    assert model.parts(4, 10, LINKS) == {"compute": 1.0, "stragglers": 0.0, "communication": pytest.approx(0.015)}
    # Twenty times the gradients: 3 s of exchange, of which two thirds of a second are hidden.
    slow = ScalingModel(0.5, 0.05, gradients=200.0, jitter=0.0, bucket=1.0)
    assert slow.parts(4, 10, LINKS)["communication"] == pytest.approx(3 - 2 / 3)


def test_one_rank_is_the_measure_and_more_are_never_more_efficient():
    model = ScalingModel(0.002, 0.0002, 1e8)
    links = INTERCONNECTS["nvlink+infiniband"]
    shares = [model.efficiency(ranks, 128, links) for ranks in (1, 8, 64, 512, 1024)]
    assert shares[0] == 1
    assert all(earlier > later for earlier, later in itertools.pairwise(shares))
    # A smaller batch has the same exchange and launches for less work.
    assert model.efficiency(64, 16, links, (1, 128)) < model.efficiency(64, 128, links)


def test_constants_are_recovered_from_steps_that_have_them():
    model = ScalingModel(0.01, 0.002, 1e6, jitter=0.0, overlap=0.3)
    assert fit_compute([(b, model.compute(b)) for b in (4, 8, 32)]) == pytest.approx((0.01, 0.002))
    links = Interconnect("true", 8, 1e9, 1e9, 1e-4)
    points = [(size, links.all_reduce(4, size)) for size in (1e3, 1e7)]
    found = fit_links(points, 4)
    assert found.within == pytest.approx(1e9)
    assert found.latency == pytest.approx(1e-4, rel=0.01)
    assert fit_overlap(step=1.2, compute=1.0, exchange=0.5, tail=0.1) == pytest.approx(0.3)
    assert fit_overlap(step=1.5, compute=1.0, exchange=0.5, tail=0.1) == 0


def test_a_fixed_part_that_would_be_negative_is_none():
    fixed, per_image = fit_compute([(8, 0.07), (16, 0.16)])
    assert fixed == 0
    assert 0.07 / 8 < per_image < 0.16 / 16


def test_published_scalings_are_predicted_within_ten_points_without_fitting():
    errors = {scaling.name: scaling.predicted - scaling.efficiency for scaling in published_scalings()}
    assert len(errors) == 2
    assert all(abs(error) < 0.10 for error in errors.values()), errors


@pytest.mark.usefixtures("forked_ranks")
def test_the_script_measures_this_machine_and_predicts_clusters(tmp_path):
    arguments = ["--network", "debug", "--ranks", "1", "2", "--batch-size", "8", "--windows", "2", "--seconds", "0.1"]
    assert scaling.main([*arguments, "--predict-network", "debug", "--output", str(tmp_path)]) == 0
    result = read_results(tmp_path)[0]
    rows = {(row.case["what"], row.metric): row for row in result["rows"]}
    for kind in ("weak", "strong"):
        for ranks in (1, 2):
            assert rows[f"{kind}, {ranks} ranks", "images/s"].details["predicted"] > 0
    assert rows["weak, 1 ranks", "efficiency"].value == pytest.approx(1)
    assert sum(row.case["what"].startswith("all-reduce") for row in result["rows"]) == 3
    predicted = [rows[f"predicted, debug, {ranks} GPUs", "efficiency predicted"].value for ranks in scaling.CLUSTER]
    assert predicted == sorted(predicted, reverse=True)
    assert (tmp_path / result["pictures"][0]).stat().st_size > 5_000


def test_more_ranks_than_fit_are_refused_in_one_line(tmp_path):
    with pytest.raises(scaling.BenchmarkError, match="1000 ranks do not fit"):
        scaling.main(["--ranks", "1000", "--output", str(tmp_path)])
