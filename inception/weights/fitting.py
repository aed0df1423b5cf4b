"""What of a file fits a network: every tensor is loaded, left fresh, left out, or a reason to refuse the file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from inception.vocabulary.errors import NetworkError
from inception.vocabulary.network import Network

_SHOWN = 4  # modules in a line


@dataclass(frozen=True)
class Fitting:
    """Tensors under our names, where they came from, the names that messages use for them, and which of them lay beside the
    network in the file."""

    state: Mapping[str, Tensor]
    file: str
    holds: str
    foreign: Mapping[str, str]
    beside: frozenset[str] = field(default_factory=frozenset)

    def name(self, ours: str) -> str:
        """Our name of a tensor, with the file's own when that differs."""
        return f"{ours} ({self.foreign[ours]})" if ours in self.foreign else ours


def fit(network: Network, fitting: Fitting, fine_tune: bool) -> tuple[list[str], list[str]]:
    """Names of the network's tensors to leave fresh and of the file's tensors to leave out; see `loading.load_weights`."""
    own = network.state_dict()
    fresh = []
    for name, tensor in own.items():
        found = fitting.state.get(name)
        if found is not None and found.shape == tensor.shape:
            continue
        if found is None and name.endswith("num_batches_tracked"):
            continue
        if fine_tune and is_head(name):
            fresh.append(name)
            continue
        problem = "is not in the file" if found is None else f"is {shape(tensor)} here and {shape(found)} in the file"
        raise NetworkError(f"{misfit(network, fitting)}: {fitting.name(name)} {problem}")
    unused = [name for name in fitting.state if name not in own]
    for name in unused:
        # What is left over inside of a stage makes it another stage.
        left = name.startswith("auxiliary") or name in fitting.beside
        if not left and (not fine_tune or name.partition(".")[0] in network.stages):
            raise NetworkError(f"{misfit(network, fitting)}: it has no {name}")
    return fresh, unused


def is_head(name: str) -> bool:
    """Whether `name` is a tensor of what fine-tuning may begin anew: classifiers, the bottleneck before one, auxiliary heads."""
    return name.split(".")[0].startswith(("auxiliary", "bottleneck", "classifier"))


def heads_fit(network: Network, state: Mapping[str, Tensor]) -> bool:
    """Whether the auxiliary heads of `network` are all in `state`, for as many classes."""
    return all(
        name in state and state[name].shape == tensor.shape
        for name, tensor in network.state_dict().items()
        if name.startswith("auxiliary") and not name.endswith("num_batches_tracked")
    )


def other_classifier(left: Mapping[str, Tensor], features: int) -> str | None:
    """The module among the tensors `left` over that can only be the classifier by another name, or in a Sequential: the one
    linear layer that reads `features` numbers; none where there are several, or it is a part of something larger."""
    layers = {
        name.rpartition(".")[0]: tensor
        for name, tensor in left.items()
        if name.endswith(".weight") and not name.startswith("auxiliary") and tensor.ndim == 2
    }
    fitting = [module for module, weight in layers.items() if weight.shape[1] == features]
    alone = len(fitting) == 1 and sum(module.split(".")[0] == fitting[0].split(".")[0] for module in layers) == 1
    return fitting[0] if alone else None


def misfit(network: Network, fitting: Fitting) -> str:
    """The start of the line that refuses a file."""
    whose = f"it holds {fitting.holds}, " if fitting.holds != network.name else ""
    return f"{fitting.file} does not fit {network.name} ({whose}first mismatch)"


def notes(fresh: list[str], unused: list[str]) -> list[str]:
    """What keeps its fresh weights, and what of the file is not used, in words."""
    return [f"{name} keeps its fresh weights" for name in owners(fresh)] + _unused(unused)


def _unused(names: list[str]) -> list[str]:
    modules = owners(names)
    if len(modules) <= _SHOWN:
        return [f"{name} of the file is not used" for name in modules]
    # Whole copies of a network, its optimizer, a loss: by what they are called at the top.
    tops = list(dict.fromkeys(name.split(".")[0] for name in names))
    shown = ", ".join(tops[:_SHOWN]) + (", ..." if len(tops) > _SHOWN else "")
    return [f"{len(names)} tensors of the file are not used ({shown})"]


def owners(names: Iterable[str]) -> list[str]:
    """The modules that hold the named tensors, each once: whole auxiliary heads, otherwise the layer."""
    found = (n.split(".")[0] if n.startswith("auxiliary") else n.rpartition(".")[0] or n for n in names)
    return list(dict.fromkeys(found))


def shape(tensor: Tensor) -> str:
    """A tensor's shape as in 32 x 3 x 3 x 3."""
    return " x ".join(str(side) for side in tensor.shape) or "a scalar"
