"""A batch that does not fit into a device's memory: the one that fits is found, or suggested."""

from __future__ import annotations

import copy

import pytest
import torch

from engine.config.batching import Batching
from engine.config.command_line import load_config
from engine.config.options import Config, ConfigError, DataConfig, LossConfig
from engine.distributed.communicator import Communicator
from engine.graphs.objective import build_objective
from engine.training.batch_that_fits import (
    advise,
    equal_parts,
    find_batch_size,
    largest_fitting,
    nearly_equal_parts,
    settle_batching,
)
from inception import create_model
from launch.environment import Environment


def strategy(world_size: int = 1, device: str = "cpu") -> Communicator:
    return Communicator(Environment(world_size=world_size), torch.device(device))


@pytest.fixture
def objective(monkeypatch):
    """Of the debug network, on a device that has memory for `objective.limit` images."""
    built = build_objective(create_model("debug", 10), LossConfig(), dtype=torch.float32)
    forward, built.tried = built.forward, []
    built.error = torch.OutOfMemoryError("tried to allocate 20.00 GiB")

    def limited(images, labels):
        built.tried.append(len(images))
        if len(images) > built.limit:
            raise built.error
        return forward(images, labels)

    monkeypatch.setattr(built, "forward", limited)
    return built


@pytest.mark.parametrize("limit", range(0, 50, 3))
def test_the_largest_that_fits_is_found_in_few_tries(limit):
    sizes, tried = [1, 2, 3, 4, 6, 8, 12, 16, 24, 48], []
    found = largest_fitting(sizes, lambda size: not tried.append(size) and size <= limit)
    assert found == max((size for size in sizes if size <= limit), default=None)
    assert len(tried) <= 5
    assert len(set(tried)) == len(tried)


def test_shares_are_cut_into_equal_parts_or_into_such_that_differ_by_a_unit():
    assert equal_parts(12) == [1, 2, 3, 4, 6, 12]
    assert equal_parts(12, unit=2) == [2, 4, 6, 12]
    assert nearly_equal_parts(7) == [1, 2, 3, 4, 7]
    assert nearly_equal_parts(14, unit=2) == [2, 4, 6, 8, 14]


@pytest.mark.parametrize(("limit", "found"), [(1, 1), (2, 1), (3, 3), (40, 31), (60, 31), (61, 61)])
def test_parts_that_differ_are_taken_where_more_than_twice_as_many_images_fit(limit, found):
    assert largest_fitting(equal_parts(61), lambda size: size <= limit, nearly_equal_parts(61)) == found
    assert largest_fitting([1, 2, 4, 8], lambda size: size <= 2, nearly_equal_parts(8)) == 2


def test_trying_leaves_no_trace_in_the_network(objective):
    objective.limit = 9
    before = copy.deepcopy(objective.state_dict())
    assert find_batch_size(objective, equal_parts(24), 32, strategy()) == 8
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())
    objective.limit = 0
    assert find_batch_size(objective, equal_parts(24), 32, strategy()) is None


@pytest.mark.parametrize(
    "words",
    ["FIND was unable to find an engine to execute this computation", "CUBLAS_STATUS_ALLOC_FAILED when calling"],
)
def test_a_library_that_finds_no_memory_for_itself_counts_as_out_of_memory(objective, words):
    objective.limit, objective.error = 9, RuntimeError(words)
    assert find_batch_size(objective, equal_parts(24), 32, strategy()) == 8
    objective.error = RuntimeError("Expected all tensors to be on the same device")
    with pytest.raises(RuntimeError, match="same device"):
        find_batch_size(objective, equal_parts(24), 32, strategy())


def test_auto_keeps_the_global_batch_and_accumulates(objective):
    objective.limit = 9
    config = Config(data=DataConfig(batch_size="auto", global_batch_size=48))
    batching = settle_batching(config, objective, strategy(world_size=2))
    assert (batching.global_batch, batching.micro_batches, batching.batch_size) == (48, 3, 8)
    assert config.data.batch_size == 8
    assert max(objective.tried) == 24  # no rank tries more than its share
    objective.limit = 0
    with pytest.raises(ConfigError, match="not even one image of 32 pixels fits"):
        settle_batching(Config(data=DataConfig(batch_size="auto", global_batch_size=48)), objective, strategy())


@pytest.mark.parametrize(("limit", "parts"), [(127, (1, 127)), (126, (2, 64)), (20, (7, 19)), (3, (43, 3))])
def test_auto_takes_parts_that_differ_where_equal_ones_would_be_slow(objective, limit, parts):
    """1016 images on 8 ranks leave each 127, a prime number."""
    objective.limit = limit
    config = Config(data=DataConfig(batch_size="auto", global_batch_size=1016))
    batching = settle_batching(config, objective, strategy(world_size=8))
    assert (batching.micro_batches, batching.batch_size) == parts


@pytest.mark.parametrize(("total", "size", "ranks", "limit", "of", "advice", "enough"), [
    (8, 1, 1, 9, "8 micro-batches of 1", "set --data.batch_size to 2", [(8, 2)]),
    (8, 3, 8, 9, "1 micro-batch of 1", "set --data.global_batch_size to 16", [(16, 3)]),
    (8, 1, 8, 9, "1 micro-batch of 1", "set --data.batch_size to 2 and --data.global_batch_size to 16", [(16, 2)]),
    (16, 2, 3, 9, "3 micro-batches of 1 to 2", "set --data.batch_size to 3, --data.global_batch_size to 12 or 18",
     [(16, 3), (12, 2), (18, 2)]),
    (61, 2, 1, 9, "61 micro-batches of 1", "set --data.batch_size to 3, --data.global_batch_size to 60 or 62",
     [(61, 3), (60, 2), (62, 2)]),
    (3, 2, 2, 9, "1 micro-batch of 1 to 2", "set --data.global_batch_size to 4", [(4, 2)]),
    (8, "auto", 8, 9, "1 micro-batch of 1", "set --data.global_batch_size to 16", [(16, "auto")]),
    (61, "auto", 1, 1, "61 micro-batches of 1", "use a smaller network", []),
    (16, "auto", 3, 2, "3 micro-batches of 1 to 2", "set --data.global_batch_size to 12 or 18", [(12, "auto"), (18, "auto")]),
])  # fmt: skip
def test_batch_normalisation_over_one_image_is_refused_with_what_would_do(
    objective, total, size, ranks, limit, of, advice, enough
):
    objective.limit = limit

    def settle(total: int, size: int | str, begun: bool = False) -> Batching:
        config = Config(data=DataConfig(batch_size=size, global_batch_size=total))
        return settle_batching(config, objective, strategy(ranks), begun)

    words = f"batch normalisation needs more than 1 image at a time, and .* {total} leaves each of {ranks} process"
    with pytest.raises(ConfigError, match=f"{words}.* {of}: {advice}, or --network.batch_norm false"):
        settle(total, size)
    assert all(settle(*wish).least > 1 for wish in enough)
    with pytest.raises(ConfigError) as refused:
        settle(total, size, begun=True)
    assert "--data.global_batch_size" not in str(refused.value)  # which a run that goes on keeps


def test_one_image_at_a_time_is_enough_without_batch_normalisation():
    plain = build_objective(create_model("debug", 10, batch_norm=False), LossConfig(), dtype=torch.float32)
    config = Config(data=DataConfig(batch_size=1, global_batch_size=8))
    assert settle_batching(config, plain, strategy()).micro_batches == 8


def test_auto_needs_a_global_batch():
    assert load_config(["--data.batch_size", "auto", "--data.global_batch_size", "64"]).data.batch_size == "auto"
    with pytest.raises(ConfigError, match=r"auto needs --data\.global_batch_size"):
        load_config(["--data.path", "unread", "--data.batch_size", "auto"])
    with pytest.raises(ConfigError, match=r"data\.batch_size"):
        load_config(["--data.batch_size", "many"])


@pytest.mark.parametrize(("batching", "limit", "size"), [
    (Batching(48, 2, 24), 12, 8),
    (Batching(256, 2, 43, uneven_ranks=3), 50, 29),  # 86 images at most: in three parts
    (Batching(512, 3, 57, uneven_ranks=3), 52, 43),  # 171 in four
    (Batching(61, 1, 61), 40, 31),  # no equal parts of a prime number
    (Batching(14, 1, 14, unit=2), 12, 8),  # in pairs
])  # fmt: skip
def test_what_would_have_fitted_is_suggested(objective, batching, limit, size):
    objective.limit, tried = limit, batching.batch_size
    advice = advise(objective, batching, 32, torch.device("cpu"))
    assert advice.startswith(
        f"{tried} images at once do not fit into the memory of this machine; {size} would: --data.batch_size {size}, or auto;"
    )
    objective.limit = 0
    assert "nor do fewer" in advise(objective, batching, 32, torch.device("cpu"))


@pytest.mark.gpu
def test_a_real_gpus_limit_is_found():
    objective = build_objective(create_model("inception_v3", 1000), LossConfig(), dtype=torch.bfloat16).cuda()
    torch.cuda.set_per_process_memory_fraction(6 / (torch.cuda.get_device_properties(0).total_memory / 2**30))
    try:
        found = find_batch_size(objective, equal_parts(4096), 299, strategy(device="cuda"))
        assert found is not None
        assert 8 <= found < 1024
        assert "would: --data.batch_size" in advise(objective, Batching(4096, 1, 4096), 299, torch.device("cuda"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
