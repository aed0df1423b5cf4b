"""Other projects' names for the tensors of these networks: recognised, translated to ours, and translated back.

A `Layout` says, part by part and in the other project's order, which of our modules is called what there; the tables
are in `others_names.py`. A part is a stage, a layer of the stem, or a head; `inner` names the units inside a part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from inception.vocabulary.errors import NetworkError
from inception.vocabulary.modules import ConvUnit
from inception.vocabulary.network import Network

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# (our part, names of the units in it) -> their names, in the same order
Naming = Callable[[str, Sequence[str]], Sequence[str]]


@dataclass(frozen=True)
class Layout:
    """One project's names for one network.

    `parts` pairs our module with theirs, in their order; `join` stands between a part and what is inside it; `conv` and
    `bn` are how the two halves of a convolution unit are named, around the unit's name. `mean` and `std` are those of
    the images that the weights expect, when they are not the network's own; `bgr` when they expect blue first.
    """

    network: str
    source: str
    parts: Sequence[tuple[str, str]]
    inner: Naming
    join: str = "."
    conv: str = "{}.conv"
    bn: str = "{}.bn"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    bgr: bool = False

    def units(self, network: Network) -> Iterator[tuple[str, str, nn.Module]]:
        """Our name, their name and the module of every unit with weights, in their order."""
        own = dict(weighted(network))
        for ours, theirs in self.parts:
            inside = [name for name in own if name == ours or name.startswith(f"{ours}.")]
            names: Sequence[str] = [""] * len(inside)
            if inside not in ([], [ours]):
                names = self.inner(ours, [name.removeprefix(f"{ours}.") for name in inside])
            for name, their_name in zip(inside, names, strict=True):
                yield name, f"{theirs}{self.join}{their_name}" if their_name else theirs, own[name]

    def keys(self, network: Network) -> dict[str, str]:
        """Their key -> our key, for every tensor of `network`, in their order."""
        pairs: dict[str, str] = {}
        for ours, theirs, module in self.units(network):
            if isinstance(module, ConvUnit):
                pairs[f"{self.conv.format(theirs)}.weight"] = f"{ours}.conv.weight"
                pairs |= {f"{self.bn.format(theirs)}.{name}": f"{ours}.bn.{name}" for name in BATCH_NORM}
            else:
                pairs |= {f"{theirs}.{name}": f"{ours}.{name}" for name in module.state_dict()}
        return pairs


def weighted(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The convolution units of a network, and the other modules that hold weights themselves, in order."""
    inside = ""
    for name, module in network.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, ConvUnit):
            inside = f"{name}."
            yield name, module
        elif any(True for _ in module.parameters(recurse=False)):
            yield name, module


def recognise(state: Mapping[str, Tensor], layouts: Sequence[Layout]) -> Layout | None:
    """The layout whose names the file uses, also when some are missing or too many; None for our own names."""
    scores = [(share_of_names(state, layout), layout) for layout in layouts]
    best, layout = max(scores, key=lambda scored: scored[0])
    return layout if best > 0.5 else None


def share_of_names(state: Mapping[str, Tensor], layout: Layout) -> float:
    """How well names fit, 0..1: the parts that are in the file, and the file's names that lie in a part."""
    optional = {theirs for ours, theirs in layout.parts if ours.startswith("auxiliary")}
    names = {theirs for _, theirs in layout.parts}
    found, inside = set(), 0
    for key in state:
        # The part is the longest known name that the key begins with, up to a separator.
        ends = [place for place, sign in enumerate(key) if sign in (".", layout.join)]
        part = next((key[:end] for end in reversed(ends) if key[:end] in names), None)
        if part is not None:
            inside += 1
            found.add(part)
    return min(len(found - optional) / len(names - optional), inside / len(state))


def to_ours(layout: Layout, network: Network, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors under our names; what has no counterpart in `network` keeps its name.

    A bias before a batch normalisation moves into its mean, where it makes no difference to any output.
    """
    left = dict(state)
    converted = {ours: left.pop(theirs) for theirs, ours in layout.keys(network).items() if theirs in left}
    for ours, theirs, module in layout.units(network):
        bias = left.pop(f"{layout.conv.format(theirs)}.bias", None) if isinstance(module, ConvUnit) else None
        if bias is not None:
            converted[f"{ours}.bn.running_mean"] = converted[f"{ours}.bn.running_mean"] - bias
    first = "stem.0.conv.weight"
    if layout.bgr and first in converted:
        converted[first] = converted[first].flip(1)
    for ours, theirs in layout.parts:
        if ours.startswith("auxiliary"):  # a head that only the file has: named as what it is
            left = {name.replace(f"{theirs}.", f"{ours}.", 1) if name.startswith(f"{theirs}.") else name: tensor
                    for name, tensor in left.items()}  # fmt: skip
    return converted | left


def to_theirs(layout: Layout, network: Network) -> dict[str, Tensor]:
    """The network's tensors under their names and in their order; loads strictly into their network."""
    if layout.bgr or layout.mean is not None:
        raise NetworkError(
            f"{layout.source}'s weights of {layout.network} expect other images; they are only read here"
        )
    own = network.state_dict()
    return {theirs: own[ours] for theirs, ours in layout.keys(network).items()}
