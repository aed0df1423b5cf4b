"""Statistics against distributions whose answers are known."""

import math

import numpy as np
import pytest

from benchmarks.measuring.summaries import (
    bootstrap_interval,
    change_beyond_noise,
    paired_ratio,
    summarise,
    t_interval,
)


def coverage(interval, draw, truth, trials):
    """How often the interval of a fresh draw contains the true value."""
    hits = 0
    for seed in range(trials):
        low, high = interval(draw(np.random.default_rng(seed)))
        hits += low <= truth <= high
    return hits / trials


def test_a_summary_of_known_values():
    summary = summarise([4.0, 1.0, 3.0, 2.0, 100.0])
    assert summary.median == 3.0
    assert summary.p95 == pytest.approx(4 + 0.8 * 96)
    assert summary.spread == pytest.approx((4 - 2) / 3)
    assert summary.low <= 3.0 <= summary.high


def test_a_summary_of_one_and_of_two_values_claims_no_more_than_they_show():
    assert (summarise([2.0]).low, summarise([2.0]).high, summarise([2.0]).spread) == (2.0, 2.0, 0.0)
    assert (summarise([2.0, 4.0]).low, summarise([2.0, 4.0]).high) == (2.0, 4.0)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_values_that_are_no_measurements_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        summarise(values)


@pytest.mark.parametrize("count", [2, 5, 20])
def test_the_t_interval_covers_a_normal_mean_as_often_as_it_says(count):
    found = coverage(t_interval, lambda rng: rng.normal(10, 3, count), 10, 2000)
    assert found == pytest.approx(0.95, abs=0.02)  # four standard errors of 2,000 trials


def test_the_t_interval_of_known_numbers():
    # 2.776 is the 97.5% point of Student's distribution with four degrees of freedom, in every table.
    low, high = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * math.sqrt(2.5) / math.sqrt(5)
    assert (low, high) == pytest.approx((3 - half, 3 + half))
    assert t_interval([1.0]) == (-math.inf, math.inf)


def test_the_bootstrap_covers_the_median_of_a_skewed_distribution():
    found = coverage(bootstrap_interval, lambda rng: rng.lognormal(0, 0.5, 30), 1.0, 300)
    assert 0.90 <= found <= 0.99


def test_the_bootstrap_of_a_mean_agrees_with_t_on_many_normal_values():
    values = np.random.default_rng(7).normal(5, 1, 400)
    assert bootstrap_interval(values, np.mean) == pytest.approx(t_interval(values), abs=0.02)


def test_a_paired_ratio_cancels_what_slows_both():
    rng = np.random.default_rng(1)
    machine = rng.uniform(0.5, 1.0, 15)  # the machine loses up to half its speed from window to window
    slow, fast = 100 * machine, 150 * machine * rng.normal(1, 0.01, 15)
    ratio = paired_ratio(fast, slow)
    assert ratio.low <= 1.5 <= ratio.high
    assert ratio.high - ratio.low < 0.05
    with pytest.raises(ValueError, match="pair"):
        paired_ratio([1.0], [1.0, 2.0])


def test_noise_is_no_regression_and_a_regression_is_no_noise():
    rng = np.random.default_rng(3)
    before = rng.normal(100, 2, 9)
    false_alarms = sum(change_beyond_noise(rng.normal(100, 2, 9), before) is not None for _ in range(200))
    assert false_alarms <= 10
    slower = change_beyond_noise(rng.normal(85, 2, 9), before)
    assert slower is not None
    assert slower == pytest.approx(-0.15, abs=0.04)
