"""What can classify images: a network of this project from any of its weights files, or a file that it exported."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config.options import ConfigError
from engine.evaluation.classes import output_classes
from engine.evaluation.settings import Settings, check_settings, overridden, settings_of, stored_settings
from engine.graphs.multilabel_scorer import MultilabelScorer
from engine.graphs.normalisation import Normalise
from engine.graphs.scorer import Scorer
from engine.inference.exported_files import SUFFIXES, open_exported
from inception import network_from_weights

WORDNET = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Model:
    """A classifier and how its images are prepared.

    probabilities: uint8 (N, 3, size, size), RGB, on the host -> float32 (N, classes) on the host; settings: how images are shown
    to it, and source: who says so, in words; classes: their names, in order.
    """

    name: str
    probabilities: Callable[[Tensor], Tensor]
    settings: Settings
    classes: Sequence[str]
    source: str = ""


def open_model(
    file: str, device: torch.device, dtype: torch.dtype, trust: bool = False, classes: str | None = None, **options: Any
) -> Model:
    """The model in `file`: weights, a checkpoint, a run directory, or an exported file (*.onnx, *.pt2).

    The network computes in `dtype`. `classes`: a file of their names that outranks what the weights say. `options` are those of
    `engine.evaluation.settings.settings_of`. A torch.export file can bring code along that runs when it is opened: only with
    `trust`. Raises NetworkError or ConfigError when the file is none of these, is not trusted, or the network takes no RGB images
    of that size.
    """
    if Path(file).suffix == SUFFIXES["torch_export"] and not trust:
        raise ConfigError(
            f"{file} is a program, which may run any code of its author's when it is opened: add --trust if you know where "
            "it comes from, or use the weights or an ONNX file"
        )
    if Path(file).suffix in (SUFFIXES["onnx"], SUFFIXES["torch_export"]):
        return open_exported_model(Path(file), device, classes, **options)
    network, weights = network_from_weights(file)
    if network.in_channels != 3:
        raise ConfigError(f"{file} takes images of {network.in_channels} channels; predict.py reads RGB images")
    settings, source = settings_of(network, weights.metadata, weights.assumed, **options)
    network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # not in torch 2.11's types
    scorer = (MultilabelScorer if weights.metadata.get("several_labels") else Scorer)(network, dtype, settings.flip).to(
        device
    )

    def probabilities(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return scorer.probabilities(images.to(device, memory_format=torch.channels_last)).cpu()

    names = class_names(weights.metadata, network.num_classes, Path(file), classes)
    return Model(network.name, probabilities, settings, names, source)


def open_exported_model(file: Path, device: torch.device, classes: str | None = None, **options: Any) -> Model:
    """The model in a file that engine/export.py wrote, which knows how its images are prepared."""
    run, metadata = open_exported(file, device)
    size = metadata["input_size"]
    if options.get("resolution") not in (None, 0, size):
        raise ConfigError(
            f"{file} was exported for images of {size} pixels, not {options['resolution']}; export it again"
        )
    settings = overridden(stored_settings(metadata)[0], options)
    check_settings(settings, len(metadata["mean"]))
    takes_pixels, batch = metadata.get("takes") == "uint8", metadata.get("batch", 0)
    if takes_pixels and (options.get("mean") or options.get("std")):
        raise ConfigError(f"{file} normalises images itself: export it again with another --evaluation.mean or .std")
    normalise = Normalise(settings.mean, settings.std)

    def chances(logits: Tensor) -> Tensor:
        return logits.sigmoid() if metadata.get("several_labels") else logits.softmax(dim=1)

    def answers(pixels: Tensor) -> Tensor:
        if not batch:
            return chances(run(pixels))
        missing = -len(pixels) % batch
        filled = torch.cat([pixels, pixels[:1].expand(missing, -1, -1, -1)])
        return chances(torch.cat([run(part) for part in filled.split(batch)])[: len(pixels)])

    def probabilities(images: Tensor) -> Tensor:
        pixels = images if takes_pixels else normalise(images)
        result = answers(pixels)
        return (result + answers(pixels.flip(3))) / 2 if settings.flip else result

    names = class_names(metadata, metadata["num_classes"], file, classes)
    return Model(metadata["network"], probabilities, settings, names, "as the exported file says")


def described(names: Sequence[str]) -> list[str]:
    """The names, with words for those that are ImageNet's WordNet numbers."""
    if not any(WORDNET.fullmatch(name) for name in names):
        return list(names)
    from timm.data import ImageNetInfo  # slow to import, and needed for ImageNet alone

    info = ImageNetInfo()
    known = set(info.label_names())
    return [info.label_name_to_description(name) if name in known else name for name in names]


def class_names(metadata: Mapping[str, Any], count: int, file: Path, given: str | None = None) -> list[str]:
    """The names of a network's classes: those of the file that is `given`, those of its training data, else ImageNet's when
    there are 1,000 (or 1,001 with background), else numbers.

    Raises ConfigError when a file names another number of classes than the network tells apart.
    """
    names, _ = output_classes(given, metadata.get("classes"), count)
    if names is None:
        return [f"class {number}" for number in range(count)]
    if len(names) != count:
        raise ConfigError(f"{file} names {len(names)} classes and its network tells {count} apart")
    return described([str(name) for name in names])
