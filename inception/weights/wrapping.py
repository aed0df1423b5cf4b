"""What training scripts put around weights: dicts within dicts, wrappers' names, and a prefix before the network's own names."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

# Where training scripts keep weights, the averaged ones first: they are the ones to use when both are there.
AVERAGED_KEYS = ("ema_state_dict", "state_dict_ema", "model_ema", "ema", "ema_model", "model_ema_state_dict", "shadow")
PLAIN_KEYS = (
    "state_dict", "model_state_dict", "model", "network", "net", "module", "weights", "params", "checkpoint", "backbone",
)  # fmt: skip
# Components of names that DistributedDataParallel, torch.compile and FSDP put in; no network here has such modules.
_WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
_DEEPEST = 4  # components of a prefix, and dicts within one another
_AVERAGED = ("ema", "averag", "swa", "teacher")  # parts of a prefix, of several copies of a network in one file


def tensors_in(
    content: Mapping[Any, Any], averaged: bool | None = None, kind: str = "", depth: int = 0
) -> tuple[dict[Any, Tensor], str] | None:
    """The tensors by name in what a training script saved, averaged ones before others, or `averaged` ones alone or those that
    are not, and in words where they were."""
    for keys, what in ((AVERAGED_KEYS, "averaged weights"), (PLAIN_KEYS, "weights")):
        for key in keys if averaged is None or averaged == (keys is AVERAGED_KEYS) else ():
            inner = content.get(key)
            if isinstance(inner, Mapping) and depth < _DEEPEST:
                found = tensors_in(inner, None, kind or f"the {what} {key!r} of a training script", depth + 1)
                if found is not None:
                    return found
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor) and name != "n_averaged"}
    return (tensors, kind or "a state dict") if tensors else None


def without_wrappers(names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their names without the components that wrappers put in."""
    return {".".join(part for part in name.split(".") if part not in _WRAPPERS): t for name, t in names.items()}


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by what follows it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def prefix_of(state: Mapping[str, Tensor], likeness: Callable[[Mapping[str, Tensor]], float]) -> str:
    """The prefix, with its last dot, below which the tensors are most like those of a known network, by `likeness` from 0
    to 1; of several copies that are alike, an averaged one, then the first. Where nothing is half like one, what all names
    begin with."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        counts.update(".".join([*parts[:depth], ""]) for depth in range(min(len(parts) - 1, _DEEPEST) + 1))
    # A file may hold a network with its average and its teacher.
    large = [prefix for prefix, count in counts.items() if 4 * count >= len(state)]
    scores = [(likeness(below(state, prefix)), any(part in prefix.lower() for part in _AVERAGED)) for prefix in large]
    best = max(range(len(large)), key=lambda place: (*scores[place], -place))
    if scores[best][0] > 0.5:
        return large[best]
    return max((prefix for prefix in large if counts[prefix] == len(state)), key=len)
