"""The number of ranks changes nothing but speed: the same samples in every global batch, the same losses, exact counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from engine.config.batching import share_batch
from engine.config.options import Config, ConfigError, DataConfig
from engine.distributed.communicator import Communicator
from engine.training.loaders import training_loader
from inception import create_model
from launch.environment import Environment
from pipelines import open_dataset
from runs import newest_state, rows


def global_batches(dataset, network, ranks: int, batch_size: int) -> list[np.ndarray]:
    """The indices of every global batch of one epoch, put together from all ranks' loaders."""
    config = Config(data=DataConfig(batch_size=batch_size, global_batch_size=24))
    batching = share_batch(config.data, ranks)
    shares = []
    for rank in range(ranks):
        communicator = Communicator(
            Environment(rank=rank, world_size=ranks, local_world_size=ranks), torch.device("cpu")
        )
        with training_loader(config, dataset, network, batching, communicator) as loader:
            shares.append([batch.indices.numpy() for batch in loader])
    steps = len(shares[0]) // batching.micro_batches
    parts = batching.micro_batches
    return [
        np.concatenate([part for share in shares for part in share[step * parts : (step + 1) * parts]])
        for step in range(steps)
    ]


def test_every_global_batch_holds_the_same_samples_in_the_same_order(tiny_dataset):
    dataset = open_dataset(tiny_dataset, "train", progress=False)
    network = create_model("debug", 10)
    alone = global_batches(dataset, network, ranks=1, batch_size=24)
    assert sorted(np.concatenate(alone)) == list(range(96))
    for ranks, batch_size in ((1, 5), (2, 12), (2, 5), (3, 8), (4, 6)):
        shared = global_batches(dataset, network, ranks, batch_size)
        assert len(alone) == len(shared) == 4
        for left, right in zip(alone, shared):
            np.testing.assert_array_equal(left, right)


def test_micro_batches_are_equal_and_no_larger_than_asked():
    assert share_batch(DataConfig(batch_size=32), 4).global_batch == 128
    sharing = share_batch(DataConfig(batch_size=32, global_batch_size=96), 2)
    assert (sharing.micro_batches, sharing.batch_size) == (2, 24)
    with pytest.raises(ConfigError, match="100 images cannot be shared equally among 3"):
        share_batch(DataConfig(global_batch_size=100), 3)


@pytest.mark.parametrize(
    ("total", "ranks", "nearest"),
    [(61, 1, "60 or 62"), (1016, 8, "1008 or 1024"), (122, 2, "120 or 124"), (100, 3, "96 or 102"), (3, 8, "8,")],
)
def test_a_batch_that_would_be_computed_image_by_image_is_refused(total, ranks, nearest):
    with pytest.raises(
        ConfigError, match=rf"global batch of {total} images .* set --data\.global_batch_size to {nearest}"
    ):
        share_batch(DataConfig(batch_size=32, global_batch_size=total), ranks)
    for batch in map(int, nearest.strip(",").split(" or ")):
        sharing = share_batch(DataConfig(batch_size=32, global_batch_size=batch), ranks)
        assert sharing.batch_size * sharing.micro_batches * ranks == batch


def test_what_a_refused_batch_is_told_to_do_works():
    with pytest.raises(ConfigError, match=r"--data\.batch_size to 1 or 61$"):
        share_batch(DataConfig(batch_size=32, global_batch_size=61), 1)
    for size in (1, 61):
        assert share_batch(DataConfig(batch_size=size, global_batch_size=61), 1).batch_size == size


def test_losses_agree_on_one_and_two_ranks(run_command, run_on_ranks, tiny_run, tmp_path):
    """20 steps in fp32 with batch normalisation over all ranks, and every kind of augmentation."""
    options = {"strategy.sync_batchnorm": "true", "optimizer.lr": 0.002, "schedule.epochs": 4}
    options |= {"augmentation.policy": "randaugment", "augmentation.mixup": 0.2, "augmentation.cutmix": 1.0}
    options |= {"augmentation.erasing": 0.25, "augmentation.colour": 0.5}
    assert run_command(tiny_run("one", **options)).returncode == 0
    assert run_on_ranks(tiny_run("two", **options, **{"data.batch_size": 8})).returncode == 0
    one, two = ([row["loss"] for row in rows(tmp_path / name)][:20] for name in ("one", "two"))
    assert len(one) == 20
    assert two == pytest.approx(one, rel=1e-5)


def test_gradients_accumulate_to_the_global_batch(run_on_ranks, tiny_run, tmp_path):
    """2 ranks with micro-batches of 4: two of them make a step of 16 images."""
    assert run_on_ranks(tiny_run("parts", **{"data.batch_size": 4})).returncode == 0
    state = newest_state(tmp_path / "parts")
    assert (state["step"], state["samples_seen"]) == (12, 192)
    assert [row["samples"] for row in rows(tmp_path / "parts")] == list(range(16, 193, 16))


def test_evaluation_counts_every_image_once(run_command, run_on_ranks, tiny_run, tiny_dataset, tmp_path):
    """30 images in batches of 4 on 1 and 2 ranks: 30 counted, the same accuracy, also from inside a training run."""
    done = run_on_ranks(tiny_run("run", **{"schedule.epochs": 1, "evaluation.batch_size": 4}))
    assert done.returncode == 0, done.stderr
    inside = rows(tmp_path / "run", "eval")[-1]
    assert inside["count"] == 30
    weights = tmp_path / "run" / "checkpoints" / "best.safetensors"
    results = []
    for number, run in enumerate((run_command, run_on_ranks)):
        file = tmp_path / f"{number}.json"
        arguments = ["--weights", weights, "--data.path", tiny_dataset, "--data.batch_size", 4, "--json", file]
        done = run(["engine/evaluate.py", *arguments])
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("top-1") == 1
        results.append(json.loads(file.read_text()))
    for result in results:
        assert result["count"] == 30
        assert result["top1"] == pytest.approx(inside["top1"])
        assert result["loss"] == pytest.approx(inside["loss"], rel=1e-4)
