"""Published weights by name, and all that their publishers say of them: read from the installed torchvision and timm.

A name is `torchvision:inception_v3.IMAGENET1K_V1` or `timm:inception_v4.tf_in1k`: the library, its network, its entry.
"""

import functools
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from inception.registry import list_models, nearest
from inception.vocabulary.errors import NetworkError

HASH = re.compile(r"-([0-9a-f]{8,})\.[^.]+$")  # torch.hub's: a file's name ends with the beginning of its SHA-256


@dataclass(frozen=True)
class Published:
    """One entry. name: as above; network: ours; url: of the file, or repository: on the Hugging Face hub; metadata: what a file
    of ours would say of its network, `evaluation` above all; accuracy: top-1 and top-5 that the publisher states [percent]."""

    name: str
    network: str
    url: str = ""
    repository: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    accuracy: tuple[float, ...] = ()


@functools.cache
def published() -> dict[str, Published]:
    """Every entry of the family that the installed libraries list, by name; none of a library that is not installed."""
    return {entry.name: entry for entry in (*_of_torchvision(), *_of_timm())}


def list_pretrained(network: str = "") -> list[str]:
    """The names of published weights, of one network or of all."""
    return [name for name, entry in published().items() if network in ("", entry.network)]


def find_published(name: str) -> Published:
    """The entry of that name. Raises NetworkError, with the nearest, where there is none."""
    entries = published()
    if name in entries:
        return entries[name]
    source = name.partition(":")[0]
    known = [other for other in entries if other.startswith(f"{source}:")]
    if not known:
        raise NetworkError(f"{name} cannot be found: {source} is not installed: pip install {source}")
    raise NetworkError(f"{source} lists no weights {name!r}{nearest(name, known)}; it lists {', '.join(known)}")


def published_file(path: Path) -> Published | None:
    """The entry whose file `path` is, told by the SHA-256 of its content, which torch.hub has in the names of its files."""
    prefixes = {m[1]: entry for entry in published().values() if entry.url and (m := HASH.search(entry.url))}
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return next((entry for prefix, entry in prefixes.items() if content.startswith(prefix)), None)


def described(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The metadata of weights of which timm's `config` (a pretrained_cfg as a dict) speaks."""
    if config.get("crop_mode", "center") not in ("", None, "center"):
        raise NetworkError(f"{name} wants the crop {config['crop_mode']!r}; only 'center' is known here")
    size, fraction = config["input_size"][-1], config.get("crop_pct") or 0.875
    evaluation = {
        "resolution": size,
        "crop_fraction": fraction,
        "resize": math.floor(size / fraction),  # as transforms_imagenet_eval has it
        "interpolation": config.get("interpolation") or "bilinear",
        "exif": False,
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }
    metadata = {"published": name, "mean": list(config["mean"]), "std": list(config["std"]), "evaluation": evaluation}
    names = config.get("label_names")
    if names or config.get("num_classes") == 1000:
        metadata["classes"] = list(names) if isinstance(names, Sequence) else imagenet_classes()
    return metadata


@functools.cache
def _imagenet() -> tuple[str, ...]:
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


def imagenet_classes() -> list[str]:
    """ImageNet's 1,000 classes by their WordNet numbers, in the order that every publisher's outputs have."""
    return list(_imagenet())


def _of_torchvision() -> list[Published]:
    try:
        from torchvision.models import get_model_weights
        from torchvision.models import list_models as theirs
    except ImportError:
        return []
    found = []
    for network in sorted(set(list_models()) & set(theirs())):
        for weights in get_model_weights(network):
            name, shown = f"torchvision:{network}.{weights.name}", weights.transforms()
            mean, std = _seen_by_network(shown.mean, shown.std)
            evaluation = {
                "resolution": shown.crop_size[0],
                "crop_fraction": shown.crop_size[0] / shown.resize_size[0],
                "resize": shown.resize_size[0],
                "interpolation": shown.interpolation.value,
                "exif": False,
                "mean": mean,
                "std": std,
            }
            metadata = {"published": name, "mean": mean, "std": std, "evaluation": evaluation}
            if len(weights.meta["categories"]) == 1000:
                metadata["classes"] = imagenet_classes()
            accuracy = weights.meta["_metrics"]["ImageNet-1K"]
            given = (accuracy["acc@1"], accuracy["acc@5"])
            found.append(Published(name, network, weights.url, metadata=metadata, accuracy=given))
    return found


def _seen_by_network(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """The mean and deviation of what is left once torchvision's networks have transformed images of `mean` and `std`, which
    all of them do that are made with weights (`transform_input`): channel by channel, y = gain x + offset."""
    from torchvision.models import Inception3

    transform = functools.partial(Inception3._transform_input, SimpleNamespace(transform_input=True))  # type: ignore[arg-type]
    black, white = torch.zeros(1, 3, 1, 1, dtype=torch.float64), torch.ones(1, 3, 1, 1, dtype=torch.float64)
    offset = transform(black).flatten()
    gain = transform(white).flatten() - offset
    middle, deviation = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    seen = deviation / gain
    # Decimal fractions went in: what double precision left of them is rounded away.
    return [round(v, 9) for v in (middle - offset * seen).tolist()], [round(v, 9) for v in seen.tolist()]


def _of_timm() -> list[Published]:
    try:
        import timm
    except ImportError:
        return []
    found = []
    for network in sorted(set(list_models()) & set(timm.list_models())):
        for entry in timm.list_pretrained(f"{network}.*"):
            config = timm.get_pretrained_cfg(entry).to_dict()  # type: ignore[union-attr]
            name = f"timm:{entry}"
            repository = config.get("hf_hub_id") or ""
            url = "" if repository else config.get("url") or ""
            found.append(Published(name, network, url, repository, described(name, config)))
    return found
