"""Counter-based randomness: bijective, uniform, and the same in whatever pieces it is asked for."""

import numpy as np
import pytest
from scipy import stats

from pipelines.plan.random_numbers import key, permute, uniform, unpermute


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 17, 97, 1000, 4096, 12345, 100003])
@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_a_permutation_names_each_position_once_and_can_be_undone(length, seed):
    positions = np.arange(length)
    order = permute(positions, length, key(seed))
    assert np.array_equal(np.sort(order), positions)
    assert np.array_equal(unpermute(order, length, key(seed)), positions)


def test_a_permutation_of_billions_answers_for_single_positions():
    length = 3_000_000_017
    positions = np.array([0, 1, length // 2, length - 1])
    order = permute(positions, length, key(5))
    assert len(set(order.tolist())) == 4
    assert order.max() < length
    assert np.array_equal(unpermute(order, length, key(5)), positions)


def test_a_position_outside_the_permutation_is_an_error():
    with pytest.raises(IndexError, match="position 10 is outside a permutation of 10"):
        permute(np.array([3, 10]), 10, 1)


def test_all_orders_of_four_samples_come_equally_often():
    orders = [tuple(permute(np.arange(4), 4, key(seed))) for seed in range(12000)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_where_a_sample_goes_is_uniform_and_says_nothing_of_its_neighbour():
    first = np.array([permute(np.array([0, 1]), 1000, key(seed, 7)) for seed in range(5000)])
    assert stats.kstest(first[:, 0] / 1000, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.06


def test_uniform_numbers_are_uniform_independent_and_pure():
    counters = np.arange(20000)
    draws = np.array([uniform(key(3), counters, draw) for draw in range(3)])
    assert draws.min() >= 0
    assert draws.max() < 1
    for row in draws:
        assert stats.kstest(row, "uniform").pvalue > 1e-4
    correlations = np.corrcoef(np.vstack([draws, np.roll(draws[0], 1)]))
    assert np.abs(correlations - np.eye(4)).max() < 0.03
    assert np.array_equal(uniform(key(3), counters[777:801], 1), draws[1, 777:801])


def test_every_word_of_a_key_changes_it():
    keys = {key(1, 2, 3), key(1, 2, 4), key(1, 3, 3), key(2, 2, 3), key(1, 2), key(3, 2, 1), key(0), key(0, 0)}
    assert len(keys) == 8
