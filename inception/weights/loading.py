"""Weights into networks: what a file holds is recognised, checked against the network, loaded, and said in one line."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inception.registry import create_model
from inception.vocabulary.errors import NetworkError
from inception.vocabulary.network import Network
from inception.weights import files
from inception.weights.fetching import fetch, is_name
from inception.weights.files import Weights, save_weights
from inception.weights.fitting import Fitting, fit, heads_fit, notes, other_classifier
from inception.weights.normalisation import recognised
from inception.weights.others_layouts import Layout, recognise, share_of_names, to_ours, to_theirs
from inception.weights.others_names import LAYOUTS, layout_for
from inception.weights.published import published_file
from inception.weights.wrapping import below, prefix_of

__all__ = ["Weights", "export_state", "load_weights", "network_from_weights", "read_weights", "save_weights"]


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
    A prefix before the names comes off, what lies beside it is not used, and a classifier by another name is taken for what
    it is. Everything else must fit. Two things may be missing on either side and are said: auxiliary heads that only the
    file has, and counters of normalisation batches that only the network has. With `fine_tune`, classifiers and auxiliary
    heads that the file has not, or for another number of classes, keep their fresh weights, and what it has besides is
    left out. Raises NetworkError for anything else, naming the first mismatch; the network is then as it was.
    """
    weights = read_weights(file)
    prefix = "" if weights.metadata.get("network") else found_below(weights.state, network)
    layout = recognise(below(weights.state, prefix), LAYOUTS)
    return put(network, weights, layout, prefix, os.fspath(file), fine_tune)


def network_from_weights(file: str | os.PathLike[str], averaged: bool | None = None) -> tuple[Network, Weights]:
    """Build the network that a file belongs to and load the file into it.

    The file's metadata says which it is, with which options; for files with another project's names, the names say it
    and the shapes give the number of classes and channels. `averaged` as `files.read_weights` has it. Raises NetworkError for
    files that tell neither.
    """
    weights = read_weights(file, averaged)
    metadata, prefix = weights.metadata, ""
    if {"network", "options", "num_classes"} <= set(metadata):
        layout = recognise(weights.state, LAYOUTS)
        network = create_model(metadata["network"], metadata["num_classes"], **metadata["options"])
    else:
        prefix = found_below(weights.state)
        layout = recognise(below(weights.state, prefix), LAYOUTS)
        if layout is None:
            raise NetworkError(
                f"{os.fspath(file)} does not say which network it belongs to; create the network and use load_weights"
            )
        network = network_like(layout, weights.state, prefix, os.fspath(file))
    if network.heads and not heads_fit(network, translated(network, weights, layout, prefix)[0]):
        # They only serve training.
        network = create_model(network.name, network.num_classes, **{**network.options, "auxiliary": False})
    said = put(network, weights, layout, prefix, os.fspath(file), fine_tune=False)
    left = said.partition(f"{os.fspath(file)}: ")[2]
    if left and not left.startswith("all "):
        weights = replace(weights, assumed=left)
    elif layout is not None and not weights.metadata:
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


def found_below(state: Mapping[str, Tensor], network: Network | None = None) -> str:
    """The prefix in a file's names below which `network` lies, or any that is known by another project's names."""
    trunk = {name for name in network.state_dict() if name.split(".")[0] in network.stages} if network else set()

    def likeness(tensors: Mapping[str, Tensor]) -> float:
        own = len(trunk & tensors.keys()) / len(trunk) if trunk else 0.0
        return max(own, *(share_of_names(tensors, layout) for layout in LAYOUTS))

    return prefix_of(state, likeness)


def network_like(layout: Layout, state: Mapping[str, Tensor], prefix: str, file: str) -> Network:
    """A network of the classes, channels and heads that a file in `layout` holds weights for, below `prefix`."""
    theirs = dict(layout.parts)
    inside = below(state, prefix)
    with torch.device("meta"):
        features = create_model(layout.network, 1).classifier.in_features
    parts = tuple(f"{name}{layout.join}" for ours, name in layout.parts if ours != "classifier")
    left = {name: tensor for name, tensor in inside.items() if not name.startswith(parts)}
    left |= {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    other = other_classifier(left, features)
    classifier = inside.get(f"{theirs['classifier']}.weight", left.get(f"{other}.weight"))
    first = inside.get(f"{layout.conv.format(theirs['stem.0'])}.weight")
    if classifier is None or first is None:
        raise NetworkError(
            f"{file} holds {layout.network} ({layout.source}) without its {'last' if first is not None else 'first'} layer; "
            "to train it anew for classes of your own: engine/train.py --network.weights"
        )
    head = theirs.get("auxiliary1")
    auxiliary = head is not None and any(name.startswith(f"{head}.") for name in inside)
    options: dict[str, Any] = {"auxiliary": auxiliary}
    if first.shape[1] != 3:
        options["in_channels"] = first.shape[1]
    return create_model(layout.network, classifier.shape[0], **options)


def translated(
    network: Network, weights: Weights, layout: Layout | None, prefix: str
) -> tuple[dict[str, Tensor], dict[str, str], frozenset[str]]:
    """A file's tensors under the names of `network` as far as they have any; by those, the file's own names where they differ;
    and which of the tensors lay beside `prefix`."""
    inside = below(weights.state, prefix)
    beside = {name: tensor for name, tensor in weights.state.items() if not name.startswith(prefix)}
    state, foreign = {**beside, **inside}, {}
    if layout is not None and layout.network == network.name:
        state = to_ours(layout, network, state)
        foreign = {ours: theirs for theirs, ours in layout.keys(network).items()}
    if "classifier.weight" not in state:
        left = {name: tensor for name, tensor in state.items() if name.split(".")[0] not in network.stages}
        other = other_classifier(left, network.classifier.in_features)
        if other is not None:
            weight = state.pop(f"{other}.weight")
            bias = state.pop(f"{other}.bias", torch.zeros(len(weight)))  # of a layer without
            state |= {"classifier.weight": weight, "classifier.bias": bias}
            foreign |= {f"classifier.{what}": f"{other}.{what}" for what in ("weight", "bias")}
    return state, foreign, frozenset(beside)


def put(network: Network, weights: Weights, layout: Layout | None, prefix: str, file: str, fine_tune: bool) -> str:
    """Load what was read and recognised; see `load_weights`."""
    holds, source = weights.metadata.get("network", network.name), weights.source
    state, foreign, beside = translated(network, weights, layout, prefix)
    if layout is not None:
        source = f"{weights.source} in the layout of {layout.source}"
        holds = (
            layout.network if layout.network == network.name else f"{layout.network} in the layout of {layout.source}"
        )
    fresh, unused = fit(network, Fitting(state, file, holds, foreign, beside), fine_tune)
    left_out = {*fresh, *unused}
    taken = {k: v for k, v in state.items() if k not in left_out}
    for name, tensor in taken.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NetworkError(
                f"{file} holds numbers that are not finite, in {foreign.get(name, name)}: its training failed"
            )
    network.load_state_dict(taken, strict=False)
    said = notes(fresh, unused)
    their_classifier = foreign.get("classifier.weight", "").removesuffix(".weight")
    if "classifier.weight" not in fresh and their_classifier not in (
        "",
        dict(layout.parts).get("classifier") if layout else "",
    ):
        said.append(f"the classifier is its {their_classifier}")
    text = "; ".join(said) or f"all {len(state)} tensors fit"
    text = "; ".join(filter(None, (text, expect(network, weights, layout))))
    if prefix:
        source = f"{source}, below {prefix.removesuffix('.')!r},"
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


def rounded(values: tuple[float, ...]) -> str:
    """Numbers to three digits, in parentheses."""
    return f"({', '.join(f'{value:.3g}' for value in values)})"
