"""Votes: at most once a second, at the same call on every rank, all wishes counted at a phase's end, over few connections."""

from __future__ import annotations

import itertools
import json
import types

import pytest

from engine.distributed import process_group
from engine.distributed.process_group import MOST_CALLS, ProcessGroup


@pytest.fixture
def alone(monkeypatch):
    """A clock to set, a rank that votes with itself, and the times of its exchanges."""
    now, exchanges = [0.0], []

    def gather(told, all_told, **options):
        exchanges.append(now[0])
        all_told[0].copy_(told)
        return types.SimpleNamespace(wait=int)

    monkeypatch.setattr(process_group.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(process_group.dist, "gather", gather)
    monkeypatch.setattr(process_group.dist, "broadcast", lambda *_, **__: None)
    group = object.__new__(ProcessGroup)
    group._pending, group._host_group = None, None
    group._interval, group._calls, group._exchanged = 1, 0, 0.0
    return now, group, exchanges


@pytest.mark.parametrize(("seconds", "calls", "exchanged"), [(0.1, 101, 11), (0.25, 41, 11), (3.0, 10, 10)])
def test_ranks_vote_once_a_second(seconds, calls, exchanged, alone):
    now, group, exchanges = alone
    for _ in range(calls):
        now[0] += seconds
        assert group.vote((False,), conclude=False) == (False,)
    assert abs(len(exchanges) - exchanged) <= 1  # the first two calls both vote, to learn how long a step takes
    waits = [later - earlier for earlier, later in itertools.pairwise(exchanges[1:])]
    assert max(waits) <= max(1.0, seconds) + 1e-6


def test_steps_that_become_slow_delay_a_vote_by_a_few_calls(alone):
    now, group, exchanges = alone
    for call in range(400):
        now[0] += 0.001 if call < 200 else 1.0
        group.vote((False,), conclude=False)
    slow = [moment for moment in exchanges if moment > 1.0]
    assert slow[0] <= 1 + MOST_CALLS + 1
    waits = [later - earlier for earlier, later in itertools.pairwise(slow[1:])]
    assert waits == pytest.approx([1.0] * len(waits))


def test_a_wish_is_heard_within_two_votes_of_slow_steps_after_fast_ones(alone):
    now, group, _ = alone
    for call in range(200):
        now[0] += 0.001
        group.vote((False,), conclude=call == 199)
    answers = []
    while (True,) not in answers:
        now[0] += 5.0
        answers.append(group.vote((True,), conclude=False))
    assert MOST_CALLS < len(answers) <= 2 * MOST_CALLS


def test_a_wish_is_granted_once_and_at_once_where_a_phase_ends(alone):
    now, group, _ = alone
    answers = []
    for _ in range(12):
        now[0] += 0.25
        answers.append(group.vote((False, True), conclude=False))
    assert [call for call, answer in enumerate(answers, start=1) if answer == (False, True)] == [
        2,
        10,
    ]  # 2, 6 and 10 vote
    assert group.vote((True, False), conclude=True) == (True, False)
    assert group.vote((False, False), conclude=True) == (False, False)


@pytest.mark.parametrize("seconds", [0.001, 1.0])
def test_the_pace_of_steps_outlasts_the_end_of_a_phase(seconds, alone):
    """As after a checkpoint, which is asked for between two votes."""
    now, group, exchanges = alone
    for _ in range(100):
        now[0] += seconds
        group.vote((False,), conclude=False)
    now[0] += 0.05
    group.vote((False,), conclude=True)
    concluded = len(exchanges)
    for _ in range(32):
        now[0] += seconds
        group.vote((False,), conclude=False)
    assert len(exchanges) - concluded == (32 if seconds == 1.0 else 1)


def test_four_ranks_hear_the_same_at_the_same_calls_over_few_connections(run_on_ranks, tmp_path):
    done = run_on_ranks(["tests/engine/distributed/voting_driver.py", str(tmp_path / "out")], processes=4)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"out-{rank}").read_text()) for rank in range(4)]
    assert all(rank["phases"] == ranks[0]["phases"] for rank in ranks)
    first, second, third, last = (phase["answers"] for phase in ranks[0]["phases"])
    heard = [call for call, answer in enumerate(first) if answer == [True, False]]
    assert len(heard) == 1
    assert 60 <= heard[0] <= 60 + 2 * MOST_CALLS
    assert second[-1] == [False, True]  # wished for at the last call alone
    assert third == [[False, False]] * 40
    assert last == [[True, True]]
    # To the store, for votes from the first rank to each, for sharing out cores around a ring; each of two groups would have
    # three otherwise, beside the store's.
    assert max(rank["sockets"] for rank in ranks) <= 6
    assert ranks[0]["phases"][0]["exchanges"] <= 3 + 200 * 0.002 * 1.75 + 200 // MOST_CALLS + 2
