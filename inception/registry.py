"""The networks by name: `create_model` builds one, `list_models` names them all."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

from inception.debug import debug
from inception.googlenet import googlenet
from inception.inception_resnet import inception_resnet_v1, inception_resnet_v2
from inception.inception_v2 import inception_v2
from inception.inception_v3 import inception_v3
from inception.inception_v4 import inception_v4
from inception.speed.fused_norm import fuse_norms
from inception.speed.padding import pad_images
from inception.speed.sibling_convolutions import fuse
from inception.vocabulary.errors import NetworkError
from inception.vocabulary.layers import Style
from inception.vocabulary.modules import set_drop_path
from inception.vocabulary.network import Design, Network

PAGES = (debug, googlenet, inception_v2, inception_v3, inception_v4, inception_resnet_v1, inception_resnet_v2)
DESIGNS: dict[str, Callable[..., Design]] = {page.__name__: page for page in PAGES}
COMMON_OPTIONS = (
    "width", "dropout", "drop_path", "auxiliary", "batch_norm", "in_channels", "fuse", "fused_norm", "pad_channels",
)  # fmt: skip


def list_models() -> list[str]:
    """The names that `create_model` knows, in alphabetical order."""
    return sorted(DESIGNS)


def create_model(name: str, num_classes: int = 1000, **options: Any) -> Network:
    """Build a network with fresh weights, drawn from torch's generator (`torch.manual_seed` fixes them).

    Options, all of them for every network; the defaults are the paper's:
      width        multiplies every number of channels (1.0)
      dropout      probability before the classifier
      drop_path    probability with which the last residual block leaves out its branches in training (0)
      auxiliary    auxiliary heads in training, yes or no
      batch_norm   batch normalisation, or convolutions with biases instead
      in_channels  channels of the images (3)
      fuse         run sibling 1x1 convolutions as one (fusion.py), yes or no: a matter of speed and rounding alone (no;
                   None: in training on CPUs)
      fused_norm   batch normalisation and ReLU in one piece (fused_norm.py) in training, yes or no: likewise (None: on CPUs)
      pad_channels channels to which the first convolution pads the images (padding.py), 0 for none: likewise (0)
    Some networks have options of their own; they are the parameters of the function on the network's page.
    Raises NetworkError for an unknown name or option (naming the nearest) and for values out of range.
    """
    if name not in DESIGNS:
        raise NetworkError(f"unknown network {name!r}{nearest(name, DESIGNS)}; known are {', '.join(list_models())}")
    own = tuple(inspect.signature(DESIGNS[name]).parameters)
    for option in options:
        if option not in (*COMMON_OPTIONS, *own):
            known = sorted({*COMMON_OPTIONS, *own})
            hint = nearest(option, known)
            raise NetworkError(f"{name} has no option {option!r}{hint}; its options are {', '.join(known)}")
    batch_norm = options.get("batch_norm", True)
    width = options.get("width", 1.0)
    in_channels = options.get("in_channels", 3)
    fused = options.get("fuse", False)
    fused_norm = options.get("fused_norm")
    padded = options.get("pad_channels", 0)
    check_flag(name, "batch_norm", batch_norm)
    for option, value in (("fuse", fused), ("fused_norm", fused_norm)):
        if value is not None:
            check_flag(name, option, value)
    check_count(name, "pad_channels", padded, least=0)
    check_number(name, "width", width, low=0.0, open_low=True)
    check_count(name, "num_classes", num_classes)
    check_count(name, "in_channels", in_channels)
    if "embedding" in own:
        check_count(name, "embedding", options.get("embedding", 0), least=0)

    design = DESIGNS[name](**{option: value for option, value in options.items() if option in own})
    dropout = options.get("dropout", design.dropout)
    drop_path = options.get("drop_path", 0.0)
    auxiliary = options.get("auxiliary", bool(design.auxiliary) and design.auxiliary_by_default)
    check_number(name, "dropout", dropout, low=0.0, high=1.0)
    check_number(name, "drop_path", drop_path, low=0.0, high=1.0)
    check_flag(name, "auxiliary", auxiliary)
    if auxiliary and not design.auxiliary:
        raise NetworkError(f"{name} has no auxiliary head; leave out auxiliary=True")
    style = Style(width=float(width), batch_norm=batch_norm, eps=design.eps)
    network = Network(
        name, design, num_classes, in_channels=in_channels, dropout=float(dropout), auxiliary=auxiliary, style=style,
        options=dict(options),
    )  # fmt: skip
    if drop_path and not set_drop_path(network, float(drop_path)):
        raise NetworkError(f"{name} has no residual blocks, whose branches drop_path could leave out; use dropout")
    fuse(network, fused)
    fuse_norms(network, fused_norm)
    if padded:
        pad_images(network, padded)
    return network


def nearest(name: str, known: Iterable[str]) -> str:
    """', did you mean ...?' for the known name nearest to `name`, or nothing when none is near."""
    matches = difflib.get_close_matches(str(name).lower().replace("-", "_"), list(known), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""


def check_flag(network: str, option: str, value: Any) -> None:
    """Raise NetworkError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise NetworkError(f"{network}: {option} must be true or false, not {value!r}")


def check_count(network: str, option: str, value: Any, least: int = 1) -> None:
    """Raise NetworkError unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise NetworkError(f"{network}: {option} must be an integer of at least {least}, not {value!r}")


def check_number(
    network: str, option: str, value: Any, *, low: float, high: float = math.inf, open_low: bool = False
) -> None:
    """Raise NetworkError unless `value` is a number with low <= value < high (or low < value < high)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value < high or (open_low and value == low):
        bounds = f"{'above' if open_low else 'at least'} {low:g}" + (f" and below {high:g}" if high < math.inf else "")
        raise NetworkError(f"{network}: {option} must be a number {bounds}, not {value!r}")
