"""Networks with published weights, by one call."""

import warnings
from typing import Any

from inception.registry import create_model as create
from inception.registry import nearest
from inception.vocabulary.errors import NetworkError
from inception.vocabulary.network import Network
from inception.weights.fetching import is_name
from inception.weights.loading import load_weights, read_weights
from inception.weights.published import list_pretrained


def create_model(name: str, num_classes: int = 1000, *, pretrained: bool | str = False, **options: Any) -> Network:
    """Build a network, with fresh weights (see `inception.registry.create_model` for these and the options) or published ones.

    pretrained: True for the only published weights of the network; an entry of `list_pretrained()`, or its last part
    ("IMAGENET1K_V1", "tf_in1k"); any other name that `--weights` takes, or a file. For another number of classes the
    classifier keeps fresh weights; what does not fit is a warning. Afterwards `network.mean`, `std` and `preprocessing` say what
    the weights expect. Raises NetworkError.
    """
    network = create(name, num_classes, **options)
    if pretrained:
        wanted = chosen(name, pretrained)
        line = load_weights(network, wanted, fine_tune=True)
        network.preprocessing = read_weights(wanted).metadata.get("evaluation")
        if "fresh" in line:
            warnings.warn(line, stacklevel=2)
    return network


def chosen(network: str, pretrained: bool | str) -> str:
    """The full name of the published weights that are asked for. Raises NetworkError where that leaves a choice, or none."""
    known = list_pretrained(network)
    if pretrained is True:
        if len(known) == 1:
            return known[0]
        raise NetworkError(f"published weights of {network}: {', '.join(known) or 'none'}; name them as pretrained=...")
    text = str(pretrained)
    if is_name(text) or any(sign in text for sign in "/\\") or text.endswith((".safetensors", ".pth", ".pt", ".bin")):
        return text
    entries = {name.rpartition(".")[2]: name for name in known}
    if text not in entries:
        hint = nearest(text, entries)
        raise NetworkError(f"{network} has no published weights {text!r}{hint}; it has {', '.join(known) or 'none'}")
    return entries[text]
