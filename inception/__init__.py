"""The Inception networks, each on one page beside its paper, with their weights in and out.

network = inception.create_model("inception_v3", num_classes=10)
logits = network.eval()(images)
"""

from inception.registry import list_models
from inception.vocabulary.errors import NetworkError
from inception.vocabulary.network import Network
from inception.weights.by_name import create_model
from inception.weights.loading import (
    Weights,
    export_state,
    load_weights,
    network_from_weights,
    read_weights,
    save_weights,
)
from inception.weights.published import list_pretrained

__all__ = [
    "Network",
    "NetworkError",
    "Weights",
    "create_model",
    "export_state",
    "list_models",
    "list_pretrained",
    "load_weights",
    "network_from_weights",
    "read_weights",
    "save_weights",
]
