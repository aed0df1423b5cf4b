"""What can classify images: a network of this project from any of its weights files, or a file that it exported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config.options import ConfigError
from engine.evaluation.settings import KEY, Settings, settings_of
from engine.graphs.normalisation import Normalise
from engine.graphs.scorer import Scorer
from engine.inference.exported_files import SUFFIXES, open_exported
from inception import network_from_weights


@dataclass(frozen=True)
class Model:
    """A classifier and how its images are prepared.

    probabilities: uint8 (N, 3, size, size), RGB, on the host -> float32 (N, classes) on the host; size: pixels a side;
    crop_fraction: the share of an image's shorter side that is looked at; classes: their names, in order; shown: in words,
    how images are shown to it and who says so.
    """

    name: str
    probabilities: Callable[[Tensor], Tensor]
    size: int
    crop_fraction: float
    classes: Sequence[str]
    shown: str = ""


def open_model(
    file: str,
    device: torch.device,
    dtype: torch.dtype,
    resolution: int = 0,
    trust: bool = False,
    flip: bool | None = None,
    crop_fraction: float = 0.0,
) -> Model:
    """The model in `file`: weights, a checkpoint, a run directory, or an exported file (*.onnx, *.pt2).

    The network computes in `dtype`. `resolution` and `crop_fraction` of 0 and `flip` None are as the run evaluated that made
    the weights. A torch.export file can bring code along that runs when it is opened: only with `trust`. Raises NetworkError
    or ConfigError when the file is none of these, is not trusted, or the network takes no RGB images of that size.
    """
    if Path(file).suffix == SUFFIXES["torch_export"] and not trust:
        raise ConfigError(
            f"{file} is a program, which may run any code of its author's when it is opened: add --trust if you know where "
            "it comes from, or use the weights or an ONNX file"
        )
    if Path(file).suffix in (SUFFIXES["onnx"], SUFFIXES["torch_export"]):
        return open_exported_model(Path(file), device, resolution, flip, crop_fraction)
    network, weights = network_from_weights(file)
    if network.in_channels != 3:
        raise ConfigError(f"{file} takes images of {network.in_channels} channels; predict.py reads RGB images")
    settings, source = settings_of(
        network, weights.metadata, resolution=resolution, crop_fraction=crop_fraction, flip=flip
    )
    network.to(device).to(memory_format=torch.channels_last).eval()
    scorer = Scorer(network, dtype, settings.flip).to(device)

    def probabilities(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return scorer.probabilities(images.to(device, memory_format=torch.channels_last)).cpu()

    classes = class_names(weights.metadata, network.num_classes, Path(file))
    shown = f"{settings} ({source})"
    return Model(network.name, probabilities, settings.resolution, settings.crop_fraction, classes, shown)


def open_exported_model(
    file: Path, device: torch.device, resolution: int, flip: bool | None = None, crop_fraction: float = 0.0
) -> Model:
    """The model in a file that engine/export.py wrote, which knows how its images are prepared."""
    run, metadata = open_exported(file, device)
    size = metadata["input_size"]
    if resolution not in (0, size):
        raise ConfigError(f"{file} was exported for images of {size} pixels, not {resolution}; export it again")
    normalise = Normalise(metadata["mean"], metadata["std"])

    stored = metadata.get(KEY, {})
    mirrored = stored.get("flip", False) if flip is None else flip
    crop = crop_fraction or stored.get("crop_fraction", metadata["crop_fraction"])

    def probabilities(images: Tensor) -> Tensor:
        pixels = normalise(images)
        result = run(pixels).softmax(dim=1)
        return (result + run(pixels.flip(3)).softmax(dim=1)) / 2 if mirrored else result

    classes = class_names(metadata, metadata["num_classes"], file)
    shown = f"{Settings(size, crop, mirrored)} (as the exported file says)"
    return Model(metadata["network"], probabilities, size, crop, classes, shown)


def class_names(metadata: Mapping[str, Any], count: int, file: Path) -> list[str]:
    """The names of a network's classes: those of its training data, else ImageNet's when there are 1,000, else numbers.

    Raises ConfigError when the file names another number of classes than the network tells apart.
    """
    names = metadata.get("classes")
    if names is not None:
        if len(names) != count:
            raise ConfigError(f"{file} names {len(names)} classes and its network tells {count} apart")
        return [str(name) for name in names]
    if count == 1000:
        from timm.data import ImageNetInfo  # slow to import, and needed for ImageNet alone

        return list(ImageNetInfo().label_descriptions())
    return [f"class {number}" for number in range(count)]
