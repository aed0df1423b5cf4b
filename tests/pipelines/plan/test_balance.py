"""Balanced epochs: every class equally often, the same on any number of ranks and after a resume, no crop twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines import TrainPlan, build_loader, open_dataset, sample_path
from pipelines.plan.balance import Balance

LABELS = np.repeat([0, 1, 3], [90, 9, 1])  # no images of class 2


def plan(labels: np.ndarray = LABELS, seed: int = 0, batch: int = 10) -> TrainPlan:
    return TrainPlan(len(labels), batch, seed=seed, balance=Balance(labels))


def epoch(of: TrainPlan, number: int) -> np.ndarray:
    return of.order(number, np.arange(len(LABELS)))


@pytest.mark.parametrize("number", [0, 1, 7])
def test_every_class_comes_equally_often(number):
    counts = np.bincount(LABELS[epoch(plan(), number)], minlength=4)
    assert counts[2] == 0
    assert counts.sum() == 100
    assert set(counts[[0, 1, 3]]) <= {33, 34}


def test_a_large_class_is_gone_through_before_any_image_comes_again():
    drawn = np.concatenate([part[LABELS[part] == 0] for part in (epoch(plan(), number) for number in range(2))])
    assert len(set(drawn)) == len(drawn)
    later = np.concatenate([part[LABELS[part] == 0] for part in (epoch(plan(), number) for number in range(6))])
    counts = np.bincount(later, minlength=90)[:90]
    assert counts.min() >= 2
    assert counts.max() <= 3


def test_orders_depend_on_seed_and_epoch_and_on_nothing_else():
    assert np.array_equal(epoch(plan(), 3), epoch(plan(batch=20), 3))
    assert not np.array_equal(epoch(plan(), 3), epoch(plan(seed=1), 3))
    assert not np.array_equal(epoch(plan(), 3), epoch(plan(), 4))
    some = np.array([5, 77, 12])
    assert np.array_equal(plan().order(2, some), epoch(plan(), 2)[some])


def test_an_image_that_comes_again_is_cut_otherwise():
    balanced, positions = plan(), np.arange(100)
    indices = balanced.order(0, positions)
    draws = balanced.draws(0, positions, indices)
    assert len(set(draws)) == 100
    assert np.array_equal(draws % 100, indices)
    boxes = balanced.boxes(0, draws, np.full((100, 2), 400, np.int32))
    again = boxes[indices == 99]
    assert len(again) > 30
    assert len({tuple(box) for box in again}) > 25
    plain = TrainPlan(100, 10)
    assert plain.draws(0, positions, indices) is indices


@pytest.mark.parametrize("ranks", [1, 2])
def test_loaders_of_any_number_of_ranks_and_after_a_resume_hand_out_the_same(ranks):
    dataset = open_dataset(sample_path(), "train")
    labels = dataset.labels(np.arange(len(dataset)))
    wanted = TrainPlan(len(dataset), 40, balance=Balance(labels))

    def batches(rank: int, size: int, world: int, seen: int = 0) -> list[torch.Tensor]:
        how = {"batch_size": size, "resolution": 32, "rank": rank, "world_size": world}
        with build_loader(dataset, wanted, "native", torch.device("cpu"), **how) as loader:
            loader.load_state_dict({"samples_seen": seen})
            return [batch.images for batch, _ in zip(loader, range(3))]

    whole = batches(0, 40, 1)
    parts = [batches(rank, 40 // ranks, ranks) for rank in range(ranks)]
    for number, images in enumerate(whole):
        assert torch.equal(images, torch.cat([part[number] for part in parts]))
    assert torch.equal(batches(0, 40, 1, seen=80)[0], whole[2])
