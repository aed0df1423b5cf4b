"""How images were normalised for a network, told by its first layer where nobody says it.

Batch statistics of the first convolution are those of a linear function of the images: the mean of each of its outputs is the
sum of its weights times the mean of each channel. Solved for the latter, that is what the network saw in training.
"""

import torch

from inception.vocabulary.modules import ConvUnit
from inception.vocabulary.network import Network

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What people normalise with: to -1..1, by ImageNet's mean and deviation, or not at all.
USUAL = (((0.5,) * 3, (0.5,) * 3), (IMAGENET_MEAN, IMAGENET_STD), ((0.0,) * 3, (1.0,) * 3))
_UNEXPLAINED = 0.25  # share of the statistics that a mean of the channels may leave open


def recognised(network: Network) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and deviation among `USUAL` by which photographs have the mean that the first layer saw; None where that is not
    clear: without batch normalisation, in an untrained network, for other images than photographs in RGB."""
    first = next((module for module in network.modules() if isinstance(module, ConvUnit)), None)
    if first is None or first.bn is None or first.bn.running_mean is None or first.conv.in_channels != 3:
        return None
    weights = first.conv.weight.detach().double().sum((2, 3))
    outputs = first.bn.running_mean.detach().double()
    if not outputs.norm() > 0 or not torch.isfinite(outputs).all():
        return None
    seen = torch.linalg.lstsq(weights, outputs[:, None], driver="gelsd").solution[:, 0]
    # Where images have no mean left, all that there is to explain is noise: it is small beside what weights could make.
    scale = torch.maximum(outputs.norm(), 0.1 * weights.norm())
    if (weights @ seen - outputs).norm() > _UNEXPLAINED * scale:
        return None
    photographs = torch.tensor(IMAGENET_MEAN, dtype=torch.float64)
    distances = [float((seen - (photographs - torch.tensor(mean)) / torch.tensor(std)).norm()) for mean, std in USUAL]
    best, second = sorted(distances)[:2]
    return USUAL[distances.index(best)] if best < second / 2 else None
