"""The plan: pure functions of (seed, epoch, sample), with the distributions that they are named after."""

import re

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import _compute_resized_output_size

from pipelines import DataError, EvalPlan, TrainPlan
from pipelines.plan.plan import BLOCK, WINDOW

SIZES = {"landscape": (500, 375), "portrait": (300, 480), "panorama": (1200, 90), "tiny": (7, 5)}


@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES.keys())
def test_boxes_follow_the_distribution_of_torchvisions_random_resized_crop(shape):
    count, (width, height) = 3000, shape
    torch.manual_seed(0)
    picture = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    theirs = theirs[:, [1, 0, 3, 2]]  # (top, left, height, width) -> (left, top, width, height)
    ours = TrainPlan(count, 10, seed=3).boxes(0, np.arange(count), np.full((count, 2), shape, np.int32))
    measures = {
        "width": lambda box: box[:, 2],
        "height": lambda box: box[:, 3],
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: box[:, 2] / box[:, 3],
        "left": lambda box: box[:, 0] / np.maximum(width - box[:, 2], 1),
        "top": lambda box: box[:, 1] / np.maximum(height - box[:, 3], 1),
    }
    for name, measure in measures.items():
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-4, name


@pytest.mark.parametrize("shape", [*SIZES.values(), (1, 1), (1, 4000), (4000, 1), (65535, 65535)])
def test_every_box_lies_in_its_image(shape):
    width, height = shape
    for plan in (TrainPlan(500, 10), EvalPlan(500, 10), TrainPlan(500, 10, ratio=(0.01, 100.0))):
        left, top, w, h = plan.boxes(1, np.arange(500), np.full((500, 2), shape, np.int32)).T
        assert min(left.min(), top.min()) >= 0
        assert min(w.min(), h.min()) >= 1
        assert (left + w).max() <= width
        assert (top + h).max() <= height


def test_flips_come_as_often_as_asked_and_anew_each_epoch():
    plan = TrainPlan(20000, 10, flip=0.3)
    first, second = (plan.flips(epoch, np.arange(20000)) for epoch in (0, 1))
    assert abs(first.mean() - 0.3) < 0.015
    assert abs((first == second).mean() - (0.3**2 + 0.7**2)) < 0.015
    assert not TrainPlan(100, 10, flip=0.0).flips(0, np.arange(100)).any()
    assert TrainPlan(100, 10, flip=1.0).flips(0, np.arange(100)).all()


@pytest.mark.parametrize("shuffle", ["full", "block", "none"])
@pytest.mark.parametrize("length", [10, 63, 64, 1000, BLOCK * WINDOW + 77])
def test_an_epoch_names_each_sample_once_in_any_pieces(shuffle, length):
    plan = TrainPlan(length, 7, seed=1, shuffle=shuffle, drop_last=False)
    whole = plan.order(2, np.arange(length))
    assert np.array_equal(np.sort(whole), np.arange(length))
    for pieces in (plan.batches, 3, 2):  # chunks of any size, from any starting point, in any order
        cuts = np.array_split(np.arange(length), pieces)
        parts = [plan.order(2, cut) for cut in reversed(cuts)]
        assert np.array_equal(np.concatenate(parts[::-1]), whole)
    batches = np.concatenate([plan.indices(2, batch) for batch in range(plan.batches)])
    assert np.array_equal(batches, whole)


def test_epochs_and_seeds_have_their_own_order_and_boxes():
    sizes = np.full((1000, 2), (500, 375), np.int32)
    indices = np.arange(1000)
    orders = [tuple(TrainPlan(1000, 10, seed=seed).order(epoch, indices)) for seed in (0, 1) for epoch in (0, 1)]
    boxes = [TrainPlan(1000, 10, seed=seed).boxes(epoch, indices, sizes) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert len({box.tobytes() for box in boxes}) == 4


def test_a_decision_depends_on_the_sample_and_not_on_its_company():
    plan, sizes = TrainPlan(1000, 10, seed=9), np.stack([np.arange(100, 1100), np.arange(1100, 100, -1)], axis=1)
    some = np.array([998, 3, 500])
    whole_boxes, whole_flips = plan.boxes(4, np.arange(1000), sizes), plan.flips(4, np.arange(1000))
    assert np.array_equal(plan.boxes(4, some, sizes[some]), whole_boxes[some])
    assert np.array_equal(plan.flips(4, some), whole_flips[some])


def test_a_block_shuffle_keeps_neighbours_together_and_still_mixes():
    length = 4 * BLOCK * WINDOW
    order = TrainPlan(length, 64, shuffle="block").order(0, np.arange(length))
    for window in np.split(order, 4):
        assert len(np.unique(window // BLOCK)) == WINDOW  # reads come in runs of a block
    assert len(np.unique(order[:256] // BLOCK)) > 100  # and a batch draws from many of them


def test_evaluation_takes_the_centred_square_of_the_shorter_side():
    boxes = EvalPlan(3, 3, crop_fraction=0.875).boxes(0, np.arange(3), np.array([(500, 400), (299, 299), (32, 64)]))
    assert boxes.tolist() == [[75, 25, 350, 350], [18, 18, 262, 262], [2, 18, 28, 28]]
    assert EvalPlan(3, 3).indices(5, 0).tolist() == [0, 1, 2]


@pytest.mark.parametrize("resize", [33, 256, 341, 342])
@pytest.mark.parametrize("resolution", [32, 33])
def test_evaluation_that_resizes_first_rounds_as_torchvision_does(resize, resolution):
    sizes = np.random.default_rng(0).integers(1, 3000, (400, 2)).astype(np.int32)
    sizes[:20, 1] = sizes[:20, 0]
    plan = EvalPlan(len(sizes), 8, resize=resize)
    boxes = plan.boxes(0, np.arange(len(sizes)), sizes)
    assert np.array_equal(boxes, np.hstack([np.zeros_like(sizes), sizes]))
    for (width, height), (across, down, x, y) in zip(sizes.tolist(), plan.views(boxes, resolution).tolist()):
        assert (down, across) == tuple(_compute_resized_output_size((height, width), [resize]))
        assert (x, y) == (round((across - resolution) / 2.0), round((down - resolution) / 2.0))


def test_the_tail_is_dropped_in_training_unless_asked_for_and_kept_in_evaluation():
    assert [TrainPlan(10, 4).batches, TrainPlan(10, 4).samples] == [2, 8]
    assert [TrainPlan(10, 4, drop_last=False).batches, TrainPlan(10, 4, drop_last=False).samples] == [3, 10]
    assert [EvalPlan(10, 4).batches, EvalPlan(10, 4).span(2)] == [3, (8, 10)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainPlan(0, 4), "the dataset has no samples"),
        (lambda: TrainPlan(4, 5), "the global batch of 5 is larger than the dataset of 4 samples"),
        (lambda: TrainPlan(4, 0), "the global batch must hold at least 1 sample, not 0"),
        (lambda: TrainPlan(4, 2, shuffle="ful"), "unknown shuffle 'ful' (nearest: full)"),
        (lambda: TrainPlan(4, 2, scale=(0.5, 0.1)), "scale must be (least, most)"),
        (lambda: TrainPlan(4, 2, ratio=(0.0, 1.0)), "ratio must be (least, most)"),
        (lambda: TrainPlan(4, 2, flip=1.5), "flip is a probability"),
        (lambda: EvalPlan(4, 2, crop_fraction=0.0), "crop_fraction must be above 0"),
        (lambda: EvalPlan(4, 2, resize=-1), "resize must be at least 1 pixel"),
        (lambda: EvalPlan(4, 2, interpolation="random"), "unknown interpolation 'random'"),
        (lambda: TrainPlan(4, 2, interpolation="cubic"), "unknown interpolation 'cubic' (nearest: bicubic)"),
        (
            lambda: EvalPlan(4, 2, resize=31).views(np.ones((1, 4), np.int32), 32),
            "does not fit into images whose shorter",
        ),
    ],
)
def test_a_plan_that_makes_no_sense_is_one_clear_line(make, message):
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        make()
    assert "\n" not in str(raised.value)
