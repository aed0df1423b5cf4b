"""Weights into networks: what a file holds is recognised, checked against the network, loaded, and said in one line."""

import os

from torch import Tensor, nn

from inception.errors import NetworkError
from inception.files import Weights, read_weights, save_weights
from inception.network import Network
from inception.registry import create_model

__all__ = ["Weights", "load_weights", "network_from_weights", "read_weights", "save_weights"]


def load_weights(network: Network, file: str | os.PathLike[str], fine_tune: bool = False) -> str:
    """Load a weights file into `network`; return one line that says what was recognised and what did not fit.

    Everything must fit. Two things may be missing on either side and are said: auxiliary heads that only the file has,
    and counters of normalisation batches that only the network has. With `fine_tune`, classifiers of another number of
    classes, and auxiliary heads that only the network has, keep their fresh weights.
    Raises NetworkError for anything else, naming the first mismatch; the network is then as it was.
    """
    weights = read_weights(file)
    fresh, unused = fit(network, weights, file, fine_tune)
    left_out = {*fresh, *unused}
    network.load_state_dict({k: v for k, v in weights.state.items() if k not in left_out}, strict=False)
    notes = [f"{name} keeps its fresh weights" for name in owners(fresh)]
    notes += [f"{name} of the file is not used" for name in owners(unused)]
    text = "; ".join(notes) or f"all {len(weights.state)} tensors fit"
    return f"{network.name}: loaded {weights.source} from {os.fspath(file)}: {text}"


def network_from_weights(file: str | os.PathLike[str]) -> tuple[Network, Weights]:
    """Build the network that a file's metadata names, with its options, and load the file into it.

    Raises NetworkError for a file without metadata: other people's files do not say which network they belong to.
    """
    weights = read_weights(file)
    metadata = weights.metadata
    if not {"network", "options", "num_classes"} <= set(metadata):
        raise NetworkError(
            f"{os.fspath(file)} does not say which network it belongs to; create the network and use load_weights"
        )
    network = create_model(metadata["network"], metadata["num_classes"], **metadata["options"])
    fit(network, weights, file, fine_tune=False)
    network.load_state_dict(weights.state, strict=False)
    return network, weights


def fit(
    network: Network, weights: Weights, file: str | os.PathLike[str], fine_tune: bool
) -> tuple[list[str], list[str]]:
    """Names of the network's tensors to leave fresh and of the file's tensors to leave out; see `load_weights`."""
    own = network.state_dict()
    fresh = []
    for name, tensor in own.items():
        found = weights.state.get(name)
        if found is not None and found.shape == tensor.shape:
            continue
        if found is None and name.endswith("num_batches_tracked"):
            continue
        if fine_tune and (is_classifier(network, name) if found is not None else name.startswith("auxiliary")):
            fresh.append(name)
            continue
        problem = "is not in the file" if found is None else f"is {shape(tensor)} here and {shape(found)} in the file"
        raise NetworkError(f"{misfit(network, weights, file)}: {name} {problem}")
    unused = [name for name in weights.state if name not in own]
    for name in unused:
        if not name.startswith("auxiliary"):
            raise NetworkError(f"{misfit(network, weights, file)}: it has no {name}")
    return fresh, unused


def misfit(network: Network, weights: Weights, file: str | os.PathLike[str]) -> str:
    """The start of the line that refuses a file."""
    holder = weights.metadata.get("network", network.name)
    whose = f"it holds {holder}, " if holder != network.name else ""
    return f"{os.fspath(file)} does not fit {network.name} ({whose}first mismatch)"


def is_classifier(network: nn.Module, name: str) -> bool:
    """Whether `name` is a tensor whose first axis is the classes."""
    module = network.get_submodule(name.rpartition(".")[0])
    return isinstance(module, nn.Linear) and module.out_features == network.num_classes


def owners(names: list[str]) -> list[str]:
    """The modules that hold the named tensors, each once: whole auxiliary heads, otherwise the layer."""
    found = (n.split(".")[0] if n.startswith("auxiliary") else n.rpartition(".")[0] for n in names)
    return list(dict.fromkeys(found))


def shape(tensor: Tensor) -> str:
    """A tensor's shape as in 32 x 3 x 3 x 3."""
    return " x ".join(str(side) for side in tensor.shape) or "a scalar"
