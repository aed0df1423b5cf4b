"""Batch-normalisation statistics measured anew for averaged weights.

Averaging weights averages their old statistics too, which belong to no network that ever existed. Running a few
training batches through the averaged network gives it statistics of its own (as stochastic weight averaging does,
arXiv 1803.05407, section 3.2).
"""

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import Tensor, nn

from engine.config.options import ConfigError
from engine.distributed.communicator import Communicator
from pipelines import Batch


def recalibrate(
    network: nn.Module,
    forward: Callable[[Tensor], object],
    batches: Iterable[Batch],
    count: int,
    communicator: Communicator,
) -> None:
    """Replaces the running statistics of `network` by the mean over `count` of this rank's batches, and over the ranks, each
    of which counts as many images as it saw.

    `forward` runs uint8 images (N, 3, H, W) through the network, which is in evaluation mode before and after. Weights
    stay as they are, and frozen stages keep their statistics. Every rank must call it. Raises ConfigError when nothing in
    the network has such statistics.
    """
    layers = [
        layer
        for name, layer in network.named_modules()
        # torch's SyncBatchNorm is no BatchNorm2d. Auxiliary heads only serve training.
        if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm)
        and not name.startswith("auxiliary")
        and name.partition(".")[0] not in getattr(network, "frozen", ())
    ]
    if not layers:
        raise ConfigError(
            "the network has no batch normalisation whose statistics --ema.recalibrate could measure: set it to 0"
        )
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over all batches
        layer.train()
    with torch.no_grad():
        seen = 0
        for batch in islice(batches, count):
            forward(batch.images)
            seen += len(batch)
        mean = sum(communicator.gather(seen)) / communicator.world_size
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
            layer.eval()
            for statistic in (layer.running_mean, layer.running_var):
                assert statistic is not None  # the networks' normalisations all track them
                communicator.sum(statistic.mul_(seen / mean)).div_(communicator.world_size)
