"""Weights into networks: what a file holds is recognised, checked against the network, loaded, and said in one line."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from inception.registry import create_model
from inception.vocabulary.errors import NetworkError
from inception.vocabulary.network import Network
from inception.weights import files
from inception.weights.fetching import fetch, is_name
from inception.weights.files import Weights, save_weights
from inception.weights.normalisation import recognised
from inception.weights.others_layouts import Layout, recognise, to_ours, to_theirs
from inception.weights.others_names import LAYOUTS, layout_for
from inception.weights.published import published_file

__all__ = ["Weights", "export_state", "load_weights", "network_from_weights", "read_weights", "save_weights"]


@dataclass(frozen=True)
class Fitting:
    """Tensors under our names, where they came from, and the names that messages use for them."""

    state: Mapping[str, Tensor]
    file: str
    holds: str
    foreign: Mapping[str, str]

    def name(self, ours: str) -> str:
        """Our name of a tensor, with the file's own when that differs."""
        return f"{ours} ({self.foreign[ours]})" if ours in self.foreign else ours


def read_weights(file: str | os.PathLike[str], averaged: bool | None = None) -> Weights:
    """Read weights: a file (see `files.read_weights`, also of `averaged`), or published ones by name (see `fetching.fetch`).

    Of published weights the metadata says how their publisher shows images to them and which classes they tell apart, also
    where the file was downloaded by other means. Raises NetworkError.
    """
    named = is_name(os.fspath(file))
    path, known = fetch(os.fspath(file)) if named else (Path(file), {})
    weights = files.read_weights(path, averaged)
    if weights.metadata:
        return weights
    if not known and path.is_file() and (entry := published_file(path)) is not None:
        known = entry.metadata
    return replace(weights, metadata=known)


def load_weights(network: Network, file: str | os.PathLike[str], fine_tune: bool = False) -> str:
    """Load a weights file into `network`; return one line that says what was recognised and what did not fit.

    The file may be ours or have the names of torchvision, timm, Cadene's models, pytorchcv or facenet-pytorch; if its
    weights expect images of another mean and deviation, the network's `mean` and `std` become those.
    Everything must fit. Two things may be missing on either side and are said: auxiliary heads that only the file has,
    and counters of normalisation batches that only the network has. With `fine_tune`, classifiers of another number of
    classes, and auxiliary heads that only the network has, keep their fresh weights.
    Raises NetworkError for anything else, naming the first mismatch; the network is then as it was.
    """
    weights = read_weights(file)
    layout = recognise(weights.state, LAYOUTS)
    return put(network, weights, layout, os.fspath(file), fine_tune)


def network_from_weights(file: str | os.PathLike[str], averaged: bool | None = None) -> tuple[Network, Weights]:
    """Build the network that a file belongs to and load the file into it.

    The file's metadata says which it is, with which options; for files with another project's names, the names say it
    and the shapes give the number of classes and channels. `averaged` as `files.read_weights` has it. Raises NetworkError for
    files that tell neither.
    """
    weights = read_weights(file, averaged)
    layout = recognise(weights.state, LAYOUTS)
    metadata = weights.metadata
    if {"network", "options", "num_classes"} <= set(metadata):
        network = create_model(metadata["network"], metadata["num_classes"], **metadata["options"])
    elif layout is not None:
        network = network_like(layout, weights.state, os.fspath(file))
    else:
        raise NetworkError(
            f"{os.fspath(file)} does not say which network it belongs to; create the network and use load_weights"
        )
    said = put(network, weights, layout, os.fspath(file), fine_tune=False)
    if layout is not None and not weights.metadata:
        weights = replace(weights, assumed=said.rpartition("; ")[2])
    return network, weights


def export_state(network: Network, source: str) -> dict[str, Tensor]:
    """The network's tensors with the names and in the order of `source` ("torchvision", "timm").

    Their `load_state_dict` takes it strictly. Raises NetworkError when they have no such network, or none with these
    options.
    """
    layout = layout_for(network.name, source)
    if not network.options.get("batch_norm", True):
        raise NetworkError(f"{source}'s {network.name} has batch normalisation; this network was made without")
    return to_theirs(layout, network)


def network_like(layout: Layout, state: Mapping[str, Tensor], file: str) -> Network:
    """A network of the classes, channels and heads that a file in `layout` holds weights for."""
    theirs = dict(layout.parts)
    classifier = state.get(f"{theirs['classifier']}.weight")
    first = state.get(f"{layout.conv.format(theirs['stem.0'])}.weight")
    if classifier is None or first is None:
        raise NetworkError(f"{file} holds {layout.network} ({layout.source}) without its first or last layer")
    head = theirs.get("auxiliary1")
    auxiliary = head is not None and any(name.startswith(f"{head}.") for name in state)
    options: dict[str, Any] = {"auxiliary": auxiliary}
    if first.shape[1] != 3:
        options["in_channels"] = first.shape[1]
    return create_model(layout.network, classifier.shape[0], **options)


def put(network: Network, weights: Weights, layout: Layout | None, file: str, fine_tune: bool) -> str:
    """Load what was read and recognised; see `load_weights`."""
    foreign: dict[str, str] = {}
    state, holds, source = weights.state, weights.metadata.get("network", network.name), weights.source
    if layout is not None:
        source = f"{weights.source} in the layout of {layout.source}"
        holds = layout.network
        if holds == network.name:
            state = to_ours(layout, network, state)
            foreign = {ours: theirs for theirs, ours in layout.keys(network).items()}
        else:
            holds = f"{holds} in the layout of {layout.source}"
    fitting = Fitting(state, file, holds, foreign)
    fresh, unused = fit(network, fitting, fine_tune)
    left_out = {*fresh, *unused}
    network.load_state_dict({k: v for k, v in state.items() if k not in left_out}, strict=False)
    notes = [f"{name} keeps its fresh weights" for name in owners(fresh)]
    notes += [f"{name} of the file is not used" for name in owners(unused)]
    text = "; ".join(notes) or f"all {len(state)} tensors fit"
    text = "; ".join(filter(None, (text, expect(network, weights, layout))))
    return f"{network.name}: loaded {source} from {file}: {text}"


def expect(network: Network, weights: Weights, layout: Layout | None) -> str:
    """Give the network the mean and deviation of the images that the weights expect; in words, what is to be said of them."""
    before, how = (network.mean, network.std), ""
    if {"mean", "std"} <= set(weights.metadata):
        network.mean, network.std = tuple(weights.metadata["mean"]), tuple(weights.metadata["std"])
    elif layout is not None and layout.mean is not None and layout.std is not None:
        network.mean, network.std = layout.mean, layout.std
    elif layout is not None:
        found = recognised(network)
        network.mean, network.std = found or before
        how = " as its first layer's statistics show" if found else ", which the file does not say and is assumed"
    if not how and (network.mean, network.std) == before:
        return ""
    return f"images are normalised with mean {rounded(network.mean)} and deviation {rounded(network.std)}{how}"


def fit(network: Network, fitting: Fitting, fine_tune: bool) -> tuple[list[str], list[str]]:
    """Names of the network's tensors to leave fresh and of the file's tensors to leave out; see `load_weights`."""
    own = network.state_dict()
    fresh = []
    for name, tensor in own.items():
        found = fitting.state.get(name)
        if found is not None and found.shape == tensor.shape:
            continue
        if found is None and name.endswith("num_batches_tracked"):
            continue
        if fine_tune and (is_classifier(name) if found is not None else name.startswith("auxiliary")):
            fresh.append(name)
            continue
        problem = "is not in the file" if found is None else f"is {shape(tensor)} here and {shape(found)} in the file"
        raise NetworkError(f"{misfit(network, fitting)}: {fitting.name(name)} {problem}")
    unused = [name for name in fitting.state if name not in own]
    for name in unused:
        if not name.startswith("auxiliary"):
            raise NetworkError(f"{misfit(network, fitting)}: it has no {name}")
    return fresh, unused


def misfit(network: Network, fitting: Fitting) -> str:
    """The start of the line that refuses a file."""
    whose = f"it holds {fitting.holds}, " if fitting.holds != network.name else ""
    return f"{fitting.file} does not fit {network.name} ({whose}first mismatch)"


def is_classifier(name: str) -> bool:
    """Whether `name` is a tensor whose first axis is the classes."""
    return name.split(".")[-2] == "classifier"


def owners(names: list[str]) -> list[str]:
    """The modules that hold the named tensors, each once: whole auxiliary heads, otherwise the layer."""
    found = (n.split(".")[0] if n.startswith("auxiliary") else n.rpartition(".")[0] for n in names)
    return list(dict.fromkeys(found))


def shape(tensor: Tensor) -> str:
    """A tensor's shape as in 32 x 3 x 3 x 3."""
    return " x ".join(str(side) for side in tensor.shape) or "a scalar"


def rounded(values: tuple[float, ...]) -> str:
    """Numbers to three digits, in parentheses."""
    return f"({', '.join(f'{value:.3g}' for value in values)})"
