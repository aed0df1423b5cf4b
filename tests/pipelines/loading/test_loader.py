"""What a loader of any backend promises: each rank's share, exact positions, resolutions, and bad samples."""

import itertools
import re

import numpy as np
import pytest
import torch

from pipelines import Batch, DataError, EvalPlan, TrainPlan, build_loader, open_dataset
from pipelines.plan.augmentation import Augmentation


def load(dataset, plan, backend="native", **options):
    return build_loader(dataset, plan, backend, **{"batch_size": 16, "resolution": 32, "workers": 2} | options)


def names(batches) -> list[int]:
    return [index for batch in batches for index in batch.indices.tolist()]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second)
    )


@pytest.fixture(params=["native", "dali", "synthetic"])
def any_backend(request):
    return request.param


def test_a_batch_has_the_promised_layout(sample_val, any_backend):
    with load(sample_val, TrainPlan(1000, 64), any_backend) as loader:
        batch = next(iter(loader))
        assert (loader.backend, loader.reason.split("; ")[0]) == (any_backend, "asked for")
    assert isinstance(batch, Batch)
    assert batch.images.shape == (16, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    assert batch.labels.tolist() == sample_val.labels(batch.indices.numpy()).tolist()


@pytest.mark.parametrize(
    "plan", [EvalPlan(1000, 96), TrainPlan(1000, 96, seed=2, drop_last=False)], ids=["eval", "train"]
)
def test_an_epoch_names_each_sample_once_on_any_number_of_ranks(sample_val, any_backend, plan):
    orders = []
    for ranks in (1, 2, 3):
        shares = []
        for rank in range(ranks):
            with load(sample_val, plan, any_backend, rank=rank, world_size=ranks) as loader:
                shares.append(list(loader))
                assert len(shares[-1]) == len(loader)
        assert sorted(names(itertools.chain(*shares))) == list(range(1000))
        orders.append(shares)
    # Global batch 3 is the same whoever reads it: batches of 96 make 6 micro-batches on one rank, 3 and 2 on more.
    one = names(orders[0][0][18:24])
    assert one == plan.indices(0, 3).tolist()
    assert names(orders[1][0][9:12] + orders[1][1][9:12]) == one
    assert names(orders[2][0][6:8] + orders[2][1][6:8] + orders[2][2][6:8]) == one


def test_a_resumed_loader_goes_on_with_identical_batches(sample_val, backend):
    plan = TrainPlan(1000, 48, seed=5)
    with load(sample_val, plan, backend) as loader:
        loader.set_epoch(3)
        whole = list(loader)
    for handed_out in (0, 1, 3, 31, 59):
        with load(sample_val, plan, backend) as loader:
            loader.set_epoch(3)
            list(itertools.islice(loader, handed_out))
            state = loader.state_dict()
        complete = handed_out // 3
        assert state == {"samples_seen": 3 * plan.samples + 48 * complete}
        with load(sample_val, plan, backend, workers=1, prefetch=1) as loader:
            loader.load_state_dict(state)
            rest = list(loader)
        assert same(rest, whole[3 * complete :])


def test_a_position_carries_over_to_other_numbers_of_ranks_and_backends(sample_val, any_backend):
    plan = TrainPlan(1000, 60, seed=8)
    with load(sample_val, plan, any_backend) as loader:
        list(itertools.islice(loader, 8))
        state = loader.state_dict()
    shares = []
    for rank in range(3):
        with load(sample_val, plan, "native", rank=rank, world_size=3) as loader:
            loader.load_state_dict(state)
            shares += names(itertools.islice(loader, 2))
    assert shares == plan.indices(0, 2).tolist()


def test_iterating_goes_on_from_epoch_to_epoch(sample_val):
    plan = TrainPlan(1000, 100, seed=1)
    with load(sample_val, plan, "synthetic", batch_size=100) as loader:
        epochs = [names(loader) for _ in range(2)]
        assert loader.state_dict() == {"samples_seen": 2000}
        loader.set_epoch(1)
        assert names(loader) == epochs[1] == plan.order(1, np.arange(1000)).tolist()
        assert epochs[0] != epochs[1]


def test_an_iteration_that_was_broken_off_goes_on_and_a_new_one_ends_the_old(sample_val):
    plan = TrainPlan(1000, 100, seed=1)
    with load(sample_val, plan, batch_size=100) as loader:
        first = iter(loader)
        begun = names([next(first), next(first)])
        rest = names(loader)
        assert begun + rest == plan.order(0, np.arange(1000)).tolist()
        assert next(first, None) is None


def test_a_rank_without_samples_in_the_last_batch_still_reaches_the_end(sample_val):
    plan = EvalPlan(1000, 333)  # 333, 333, 333, 1
    with load(sample_val, plan, "synthetic", rank=0, world_size=2, batch_size=400) as loader:
        assert [len(batch) for batch in loader] == [166, 166, 166]
        assert len(loader) == 3
        assert loader.state_dict() == {"samples_seen": 1000}


def test_a_position_within_a_global_batch_is_refused(sample_val):
    with load(sample_val, TrainPlan(1000, 64)) as loader, pytest.raises(DataError, match="position 100 lies within"):
        loader.load_state_dict({"samples_seen": 100})


def test_augmentation_lies_as_the_graphs_compiled_ahead_expect_it(sample_val):
    """Every tensor of it densely, like one made from the plan's own array: another layout would be another graph."""
    augmentation = Augmentation(policy="randaugment", colour=0.5, mixup=0.2, cutmix=1.0, erasing=0.25)
    plan = TrainPlan(1000, 64, seed=1, augmentation=augmentation)
    with load(sample_val, plan, "synthetic", batch_size=16) as loader:
        batch = next(iter(loader))
        decided = plan.augmentations(0, batch.indices.numpy(), loader.resolution)
    assert batch.augmentation is not None
    assert list(batch.augmentation) == list(decided)
    for name, array in decided.items():
        assert batch.augmentation[name].stride() == torch.from_numpy(np.ascontiguousarray(array)).stride(), name
        assert np.array_equal(batch.augmentation[name].numpy(), array), name


def test_a_new_resolution_holds_from_the_next_batch_on(sample_val, any_backend):
    plan = TrainPlan(1000, 16, seed=3)
    sizes, seen = [], []
    with load(sample_val, plan, any_backend, prefetch=3) as loader:
        for number, batch in enumerate(itertools.islice(loader, 12)):
            sizes.append(batch.images.shape[-1])
            seen.append(batch)
            loader.resolution = 24 if 3 <= number < 8 else 40 if number >= 8 else 32
        with pytest.raises(DataError, match="resolution must be at least 1, not 0"):
            loader.resolution = 0
    assert sizes == [32] * 4 + [24] * 5 + [40] * 3
    assert names(seen) == plan.order(0, np.arange(12 * 16)).tolist()
    if any_backend != "synthetic":
        with load(sample_val, plan, any_backend, resolution=24) as loader:
            assert same(list(itertools.islice(loader, 9))[4:], seen[4:9])


def test_a_closed_loader_says_so(sample_val):
    loader = load(sample_val, TrainPlan(1000, 64))
    loader.close()
    loader.close()
    with pytest.raises(DataError, match="the loader is closed"):
        iter(loader)


@pytest.fixture
def damaged(make_folder, odd_images, bad_images):
    """20 samples: some that the index knows to be bad, some that only decoding finds out."""
    files = {f"train/a/{number:02d}.jpg": odd_images["plain"] for number in range(20)}
    for number, kind in {3: "truncated", 4: "empty", 9: "text", 10: "truncated", 19: "noise"}.items():
        files[f"train/a/{number:02d}.jpg"] = bad_images[kind]
    return make_folder(files)


def test_a_sample_that_the_index_knows_to_be_bad_is_named_at_once(damaged, backend):
    dataset = open_dataset(damaged, "train", progress=False)
    message = r"/train/a/04.jpg: the file is empty \(and 2 more\); repair it, list it in a quarantine file, or skip bad images"
    with pytest.raises(DataError, match=message):
        load(dataset, TrainPlan(20, 4), backend)


def test_a_sample_that_fails_when_read_is_named(damaged, backend):
    (damaged / "bad.txt").write_text("a/04.jpg\na/09.jpg\na/19.jpg\n")
    dataset = open_dataset(damaged, "train", quarantine=damaged / "bad.txt", progress=False)
    plan = EvalPlan(17, 17)
    with load(dataset, plan, backend, batch_size=17) as loader:
        with pytest.raises(
            DataError, match=r"/train/a/03.jpg: it cannot be decoded: .*; repair it, list it in"
        ) as raised:
            list(loader)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_bad_training_sample_is_replaced_by_the_next_good_one_of_the_plan(damaged, backend, ranks):
    dataset = open_dataset(damaged, "train", progress=False)
    plan = TrainPlan(20, 6, seed=4, drop_last=False)
    bad = {3, 4, 9, 10, 19}
    order = plan.order(1, np.arange(20)).tolist()
    wanted = [
        next(order[(at + step) % 20] for step in range(20) if order[(at + step) % 20] not in bad) for at in range(20)
    ]
    shares, reported = [], []
    for rank in range(ranks):
        with load(dataset, plan, backend, rank=rank, world_size=ranks, batch_size=6, on_error="skip") as loader:
            loader.set_epoch(1)
            shares.append([batch.indices.tolist() for batch in loader])
            reported += [re.search(r"(\d\d)\.jpg", name)[1] for name, _ in loader.substitutions]
            assert all(reason for _, reason in loader.substitutions)
            loader.set_epoch(2)
            assert loader.substitutions == []
    together = [index for parts in itertools.zip_longest(*shares, fillvalue=[]) for part in parts for index in part]
    assert together == wanted
    assert sorted(int(number) for number in reported) == sorted(bad)


def test_a_substitute_is_cut_as_it_is_in_its_own_place(damaged, backend):
    dataset = open_dataset(damaged, "train", progress=False)
    plan = TrainPlan(20, 20, seed=4)
    with load(dataset, plan, backend, batch_size=20, on_error="skip") as loader:
        (batch,) = loader
    places = {}
    for slot, index in enumerate(batch.indices.tolist()):
        places.setdefault(index, []).append(slot)
    twice = [slots for slots in places.values() if len(slots) > 1]
    assert twice
    for first, *others in twice:
        assert all(psnr(batch.images[first], batch.images[other]) > 45 for other in others)


def psnr(first, second) -> float:
    error = (first.double() - second.double()).square().mean().item()
    return 10 * np.log10(255**2 / error) if error else 99.0


def test_a_bad_evaluation_sample_does_not_count(damaged, backend):
    dataset = open_dataset(damaged, "train", progress=False)
    with load(dataset, EvalPlan(20, 20), backend, batch_size=20, on_error="skip") as loader:
        (batch,) = loader
        assert [re.search(r"(\d\d)\.jpg", name)[1] for name, _ in loader.substitutions] == [
            "03",
            "04",
            "09",
            "10",
            "19",
        ]
    assert batch.indices.tolist() == list(range(20))
    assert batch.labels.tolist() == [-1 if index in (3, 4, 9, 10, 19) else 0 for index in range(20)]
    assert not batch.images[[3, 4, 9, 10, 19]].any()
    assert batch.images[[0, 1, 2]].any()


def test_a_dataset_of_nothing_but_bad_samples_is_one_clear_line(make_folder, bad_images):
    path = make_folder({"train/a/1.jpg": bad_images["text"], "train/a/2.jpg": bad_images["empty"]})
    dataset = open_dataset(path, "train", progress=False)
    with pytest.raises(DataError, match=r"no image of .* can be read; the first is .*1.jpg: it is no image"):
        load(dataset, TrainPlan(2, 2), on_error="skip")
    path = make_folder({"train/b/1.jpg": bad_images["truncated"]}, "other")
    dataset = open_dataset(path, "train", progress=False)
    with (
        load(dataset, TrainPlan(1, 1), on_error="skip") as loader,
        pytest.raises(DataError, match=r"no image of .* can be"),
    ):
        list(loader)
