"""Batch normalisations folded into the layers before them: the network of inference, with fewer operations."""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from inception.vocabulary.errors import NetworkError
from inception.vocabulary.modules import ConvUnit
from inception.vocabulary.network import Network


def fold_batch_norm(network: Network) -> Network:
    """A copy of `network` in evaluation mode whose convolutions carry their normalisation in weights and biases.

    The same function as `network` in evaluation mode, up to rounding; it cannot be trained on, and auxiliary heads stay
    as they are. Raises NetworkError for a network without batch normalisation.
    """
    folded = copy.deepcopy(network).eval()
    units = [unit for stage in folded.stages for unit in getattr(folded, stage).modules() if isinstance(unit, ConvUnit)]
    normalised = [unit for unit in units if unit.bn is not None]
    if not normalised:
        raise NetworkError(f"this {network.name} has no batch normalisation to fold")
    for unit in normalised:
        assert unit.bn is not None
        unit.conv, unit.bn = fuse_conv_bn_eval(unit.conv, unit.bn), None
    if isinstance(folded.bottleneck, nn.Sequential):
        linear, bn = folded.bottleneck
        assert isinstance(linear, nn.Linear)
        assert isinstance(bn, nn.BatchNorm1d)
        folded.bottleneck = fuse_linear_bn_eval(linear, bn)
    return folded
