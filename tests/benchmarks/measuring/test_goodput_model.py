"""The simulation of long jobs, against what is known in closed form."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from benchmarks.measuring.goodput_model import Costs, simulate


@pytest.mark.parametrize("gpus", [8, 64, 512, 1024])
def test_the_shares_of_the_time_are_the_whole(gpus):
    account = simulate(gpus, 400)
    shares = {name: share for name, share in asdict(account).items() if name != "failures_a_day"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares.values()) >= 0


def test_more_gpus_fail_more_often_and_have_less_goodput():
    found = [simulate(gpus, 2000) for gpus in (8, 64, 512, 1024)]
    assert sorted((account.goodput for account in found), reverse=True) == [account.goodput for account in found]
    expected = 1024 * 24 / Costs().gpu_hours_between_failures
    assert found[-1].failures_a_day == pytest.approx(expected, rel=0.1)


def test_where_nothing_fails_a_job_starts_once_and_saves():
    costs = Costs(gpu_hours_between_failures=1e15, vote=0.0)
    account = simulate(512, 10, costs)
    saving = costs.save / (costs.save + costs.save_every)
    assert account.goodput == pytest.approx(1 - saving - costs.start(512) / 864_000, abs=1e-4)
    assert account.lost == account.noticing == 0


def test_a_failure_costs_half_an_interval_and_a_start():
    """To first order, as Young (1974) has it; intervals and starts are short beside the time between failures."""
    costs = replace(Costs(), gpu_hours_between_failures=512 * 30.0, share_of_hangs=0.0, vote=0.0)
    between = 30 * 3600
    lost = (costs.save_every / 2 + costs.start(512) + costs.crash_noticed + costs.requeued) / between
    account = simulate(512, 20_000, costs)
    assert 1 - account.goodput - account.saving == pytest.approx(lost, rel=0.03)


def test_failures_that_are_announced_lose_nothing():
    assert simulate(1024, 400, Costs(warned=1.0)).lost == 0
