"""Augmentation as the plan decides it: pure functions of (seed, epoch, sample), with the distributions of their papers."""

import itertools
import re

import numpy as np
import pytest
import torch
from scipy import stats

from pipelines import DataError, TrainPlan, build_loader
from pipelines.plan.augmentation import OPERATIONS, Augmentation

EVERYTHING = Augmentation("randaugment", colour=1.0, mixup=0.4, cutmix=1.0, erasing=0.25)


def parameters(augmentation: Augmentation, count: int = 4000, size: int = 100, stream: int = 1):
    return augmentation.parameters(stream, np.arange(count), size)


def test_parameters_are_pure_functions_of_seed_epoch_and_sample():
    plan = TrainPlan(1000, 10, seed=3, augmentation=EVERYTHING)
    whole = plan.augmentations(2, np.arange(1000), 96)
    some = np.array([999, 4, 500])
    part = plan.augmentations(2, some, 96)
    assert whole.keys() == part.keys()
    for name in whole:
        assert np.array_equal(whole[name][some], part[name])
        assert whole[name].dtype == np.float32
    for other in (
        plan.augmentations(3, some, 96),
        TrainPlan(1000, 10, seed=4, augmentation=EVERYTHING).augmentations(2, some, 96),
    ):
        assert not np.array_equal(other["colour"], part["colour"])
    assert TrainPlan(1000, 10).augmentations(0, some, 96) == {}


@pytest.mark.parametrize(("policy", "steps"), [("randaugment", 2), ("trivialaugment", 1)])
def test_each_operation_of_a_policy_comes_equally_often_with_either_sign(policy, steps):
    found = parameters(Augmentation(policy), 14000)
    assert found["affine"].shape == (14000, steps, 2, 3)
    neutral = {
        "affine": np.eye(2, 3),
        "blend": 1.0,
        "posterize": 1.0,
        "solarize": 256.0,
        "autocontrast": 0.0,
        "equalize": 0.0,
    }
    acts = {}
    for name, value in neutral.items():
        changed = found[name] != value
        acts[name] = changed.reshape(14000, steps, -1).any(2)
    # 14 operations, of which 5 move, 4 blend, and one each posterizes, solarizes, stretches and evens out.
    shares = {"affine": 5, "blend": 4, "posterize": 1, "solarize": 1, "autocontrast": 1, "equalize": 1}
    weakest = 1 / 31 if policy == "trivialaugment" else 0.0  # at level 0 nothing changes
    for name, count in shares.items():
        expected = count / len(OPERATIONS) * (1 if name in ("autocontrast", "equalize", "solarize") else 1 - weakest)
        if name != "posterize":
            assert abs(acts[name].mean() - expected) < 0.012, name
    assert (sum(act.astype(int) for act in acts.values()) <= 1).all()
    rotation = found["affine"][:, 0, 0, 0] != 1
    assert abs((found["affine"][rotation, 0, 1, 0] > 0).mean() - 0.5) < 0.06


def test_beta_variates_follow_the_beta_distribution():
    for alpha in (0.1, 0.2, 0.5, 1.0):
        weight = parameters(Augmentation(mixup=alpha), 20000)["weight"]
        low = weight[weight < 0.5]  # near 1 floats are too coarse to tell a continuous distribution
        assert abs(len(low) / len(weight) - 0.5) < 0.015
        assert stats.kstest(low, lambda x, alpha=alpha: 2 * stats.beta(alpha, alpha).cdf(x)).pvalue > 1e-4


def test_cutmix_boxes_have_the_area_that_their_label_weight_says():
    found = parameters(Augmentation(cutmix=1.0), 5000, 64)
    left, top, right, bottom = found["cut"].T
    area = (right - left) * (bottom - top)
    assert np.allclose(found["label_weight"], 1 - area / 64**2)
    assert (found["weight"] == 1).all()
    assert min(left.min(), top.min()) >= 0
    assert max(right.max(), bottom.max()) <= 64
    assert 0.1 < area.mean() / 64**2 < 0.5


def test_with_both_mixings_half_of_the_samples_get_each():
    found = parameters(Augmentation(mixup=1.0, cutmix=1.0))
    assert abs((found["weight"] == 1).mean() - 0.5) < 0.03


def test_erasing_happens_as_often_as_asked_with_the_papers_areas():
    boxes = parameters(Augmentation(erasing=0.25), 8000, 200)["erase"]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 200**2
    assert abs((area > 0).mean() - 0.25) < 0.02
    assert area.max() < 0.34


def test_a_loader_hands_parameters_out_with_each_batch(sample_val, backend):
    plan = TrainPlan(1000, 40, seed=2, augmentation=EVERYTHING)
    with build_loader(sample_val, plan, backend, batch_size=20, resolution=48, workers=1) as loader:
        loader.set_epoch(1)
        for batch in itertools.islice(loader, 3):
            wanted = plan.augmentations(1, batch.indices.numpy(), 48)
            assert batch.augmentation.keys() == wanted.keys()
            assert all(torch.equal(batch.augmentation[name], torch.from_numpy(wanted[name])) for name in wanted)
        loader.resolution = 32
        batch = next(iter(loader))
        assert batch.augmentation["cut"].max() <= 32
    with build_loader(sample_val, TrainPlan(1000, 40), backend, batch_size=20, resolution=48) as loader:
        assert next(iter(loader)).augmentation is None


def test_partners_are_the_same_on_any_number_of_ranks(sample_val):
    plan = TrainPlan(1000, 40, seed=2, augmentation=EVERYTHING)

    def pairs(ranks):
        found = set()
        for rank in range(ranks):
            options = {"batch_size": 10, "resolution": 8, "rank": rank, "world_size": ranks}
            with build_loader(sample_val, plan, "synthetic", **options) as loader:
                for batch in loader:
                    found.update(zip(batch.indices[::2].tolist(), batch.indices[1::2].tolist()))
        return found

    assert pairs(1) == pairs(2) == pairs(4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augmentation("randaug"), "unknown policy 'randaug' (nearest: randaugment)"),
        (lambda: Augmentation("randaugment", magnitude=31), "magnitude 0 to 30, not 2, 31"),
        (lambda: Augmentation(mixup=1.5), "mixup must be from 0 to 1, not 1.5"),
        (
            lambda: TrainPlan(10, 2, drop_last=False, augmentation=EVERYTHING),
            "mixup and cutmix need whole global batches",
        ),
    ],
)
def test_settings_that_make_no_sense_are_one_clear_line(make, message):
    with pytest.raises(DataError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(("global_batch", "batch_size"), [(30, 15), (25, 10)])
def test_mixing_needs_pairs(sample_val, global_batch, batch_size):
    plan = TrainPlan(1000, global_batch, augmentation=EVERYTHING)
    with pytest.raises(DataError, match="mixup and cutmix mix pairs"):
        build_loader(sample_val, plan, "synthetic", batch_size=batch_size, resolution=8)


def test_every_rank_needs_a_pair(sample_val):
    plan = TrainPlan(1000, 8, augmentation=EVERYTHING)
    with pytest.raises(DataError, match="the global batch of 8 is smaller than the 8 ranks of a pair each; raise it"):
        build_loader(sample_val, plan, "synthetic", batch_size=2, resolution=8, world_size=8)


def test_pairs_are_dealt_and_cut_whole(sample_val):
    plan = TrainPlan(1000, 30, augmentation=EVERYTHING)
    parts = []
    for rank in range(4):
        with build_loader(sample_val, plan, "synthetic", batch_size=4, resolution=8, rank=rank, world_size=4) as loader:
            parts.append([batch.indices.tolist() for batch in itertools.islice(loader, 2)])
    assert [[len(part) for part in share] for share in parts] == [[2, 4], [4, 4], [4, 4], [4, 4]]
    assert list(itertools.chain(*itertools.chain(*parts))) == plan.indices(0, 0).tolist()
