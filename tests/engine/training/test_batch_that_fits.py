"""A batch that does not fit into a device's memory: the one that fits is found, or suggested."""

from __future__ import annotations

import copy

import pytest
import torch

from engine.config.command_line import load_config
from engine.config.options import Config, ConfigError, DataConfig, LossConfig
from engine.distributed.communicator import Communicator
from engine.graphs.objective import build_objective
from engine.training.batch_that_fits import advise, find_batch_size, largest_fitting, settle_batching, shares
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


def test_shares_are_equal_parts():
    assert shares(12) == [1, 2, 3, 4, 6, 12]
    assert shares(12, 5) == [1, 2, 3, 4]
    assert shares(7, 3) == [1]


def test_trying_leaves_no_trace_in_the_network(objective):
    objective.limit = 9
    before = copy.deepcopy(objective.state_dict())
    assert find_batch_size(objective, shares(24), 32, strategy()) == 8
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())
    objective.limit = 0
    assert find_batch_size(objective, shares(24), 32, strategy()) is None


@pytest.mark.parametrize(
    "words",
    ["FIND was unable to find an engine to execute this computation", "CUBLAS_STATUS_ALLOC_FAILED when calling"],
)
def test_a_library_that_finds_no_memory_for_itself_counts_as_out_of_memory(objective, words):
    objective.limit, objective.error = 9, RuntimeError(words)
    assert find_batch_size(objective, shares(24), 32, strategy()) == 8
    objective.error = RuntimeError("Expected all tensors to be on the same device")
    with pytest.raises(RuntimeError, match="same device"):
        find_batch_size(objective, shares(24), 32, strategy())


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


@pytest.mark.parametrize(("batch_size", "total"), [(1, 8), ("auto", 61)])
def test_batch_normalisation_over_one_image_is_refused(objective, batch_size, total):
    objective.limit = 9
    config = Config(data=DataConfig(batch_size=batch_size, global_batch_size=total))
    with pytest.raises(ConfigError, match=f"batch normalisation needs more than 1 image .* {total} micro-batches of 1"):
        settle_batching(config, objective, strategy())


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


def test_what_would_have_fitted_is_suggested(objective):
    objective.limit = 12
    advice = advise(objective, 48, 24, 32, torch.device("cpu"))
    assert advice.startswith(
        "24 images at once do not fit into the memory of this machine; 8 would: --data.batch_size 8"
    )
    objective.limit = 0
    assert "nor do fewer" in advise(objective, 48, 24, 32, torch.device("cpu"))


@pytest.mark.gpu
def test_a_real_gpus_limit_is_found():
    objective = build_objective(create_model("inception_v3", 1000), LossConfig(), dtype=torch.bfloat16).cuda()
    torch.cuda.set_per_process_memory_fraction(6 / (torch.cuda.get_device_properties(0).total_memory / 2**30))
    try:
        found = find_batch_size(objective, shares(4096), 299, strategy(device="cuda"))
        assert found is not None
        assert 8 <= found < 1024
        assert "would: --data.batch_size" in advise(objective, 4096, 4096, 299, torch.device("cuda"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
