"""Statistics measured anew: the mean over the batches given, nothing else changed, and of use to averaged weights."""

from __future__ import annotations

import pytest
import torch

from engine.config.options import ConfigError
from engine.distributed.communicator import Communicator
from engine.evaluation.recalibration import recalibrate
from engine.graphs.scorer import Scorer
from inception import create_model
from launch.environment import Environment
from pipelines import Batch
from runs import rows


def batch_of(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.zeros(8, dtype=torch.int64), torch.arange(8))


@pytest.mark.parametrize("synchronised", [False, True], ids=["", "torch's SyncBatchNorm"])
def test_statistics_are_the_mean_over_the_batches_and_weights_stay(synchronised):
    torch.manual_seed(0)
    network = create_model("debug", 10)
    if synchronised:  # as GPUs have it without compilation
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.eval()
    scorer = Scorer(network, dtype=torch.float32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = network.stem[0]
    seen = []
    hook = first.conv.register_forward_hook(lambda module, inputs, output: seen.append(output.mean((0, 2, 3))))
    batches = [batch_of(seed) for seed in range(5)]
    recalibrate(network, scorer.probabilities, batches, 3, Communicator(Environment(), torch.device("cpu")))
    hook.remove()
    assert len(seen) == 3
    torch.testing.assert_close(first.bn.running_mean, torch.stack(seen).mean(0), rtol=1e-4, atol=1e-5)
    assert first.bn.momentum == 0.1
    assert not any(module.training for module in network.modules())
    for name, value in network.state_dict().items():
        same = torch.equal(value, before[name])
        assert same != ("running" in name and not name.startswith("auxiliary")) or "num_batches" in name, name


def test_ranks_count_by_the_images_they_saw():
    """Shares of 4, 6 and 6 images, as three ranks have them of 16: the mean of the images, not of the ranks."""
    shares = (4, 6, 6)
    means, own = [], []

    class Rank(Communicator):
        def sum(self, values):
            own.append(values.clone())
            return values

        def gather(self, value):
            return list(shares)

    for rank, images in enumerate(shares):
        torch.manual_seed(0)
        network = create_model("debug", 10).eval()
        first, own[:] = network.stem[0], []
        hook = first.conv.register_forward_hook(lambda module, inputs, output: means.append(output.mean((0, 2, 3))))
        batch = Batch(batch_of(rank).images[:images], torch.zeros(images, dtype=torch.int64), torch.arange(images))
        communicator = Rank(Environment(rank=rank, world_size=3), torch.device("cpu"))
        recalibrate(network, Scorer(network, dtype=torch.float32).probabilities, [batch], 1, communicator)
        hook.remove()
        means[rank] = means[rank] * images / 16, own[0] / 3
    weighted, counted = (torch.stack(values).sum(0) for values in zip(*means))
    torch.testing.assert_close(counted, weighted, rtol=1e-4, atol=1e-5)


def test_a_network_without_statistics_is_refused():
    network = create_model("debug", 10, batch_norm=False).eval()
    communicator = Communicator(Environment(), torch.device("cpu"))
    with pytest.raises(ConfigError, match="no batch normalisation whose statistics"):
        recalibrate(network, Scorer(network, dtype=torch.float32).probabilities, [batch_of(0)], 1, communicator)


def test_a_run_with_recalibration_goes_on_where_it_was(run_command, tiny_run, tmp_path):
    """Recalibration reads training batches without moving the run's place in the data."""
    assert run_command(tiny_run("plain")).returncode == 0
    done = run_command(tiny_run("recalibrated", ema__recalibrate=3))
    assert done.returncode == 0, done.stderr
    plain, recalibrated = rows(tmp_path / "plain"), rows(tmp_path / "recalibrated")
    assert [row["loss"] for row in plain] == [row["loss"] for row in recalibrated]
    evaluations = [rows(tmp_path / name, "eval")[-1]["loss"] for name in ("plain", "recalibrated")]
    assert evaluations[0] != evaluations[1]
