"""What a run's loss is made of beside its network: weights of classes, several labels an image, a teacher."""

import json
from pathlib import Path

import numpy as np
import torch

from engine.config.options import Config, ConfigError, DistillationConfig
from engine.evaluation.classes import output_classes
from engine.evaluation.settings import settings_of
from engine.graphs.criterion import Criterion
from engine.graphs.multilabel_scorer import MultilabelScorer
from engine.graphs.scorer import Scorer
from engine.graphs.teacher import Teacher
from inception import network_from_weights
from inception.registry import nearest
from inception.vocabulary.network import Network
from pipelines import Dataset


def build_criterion(config: Config, train: Dataset) -> Criterion | None:
    """The loss of `config` for the images of `train`; None for plain cross-entropy. Raises ConfigError for a combination that
    makes no sense, or weights that name no class."""
    options = config.loss
    if train.combinations is not None:
        check_several(config, train)
    elif options.name == "cross_entropy" and not options.class_weights:
        return None
    weights = class_weights(options.class_weights, train) if options.class_weights else None
    targets = None if train.combinations is None else torch.from_numpy(train.combinations)
    return Criterion(options.name == "bce", options.label_smoothing, weights, targets)


def check_several(config: Config, train: Dataset) -> None:
    """Raises ConfigError for options that suppose one label an image, where `train` has several."""
    contradictions = {
        "loss.name cross_entropy": config.loss.name != "bce",
        "data.sampler balanced": config.data.sampler == "balanced",
        "loss.label_smoothing": config.loss.label_smoothing > 0,
        "augmentation.mixup": config.augmentation.mixup > 0,
        "augmentation.cutmix": config.augmentation.cutmix > 0,
    }
    for option, present in contradictions.items():
        if present:
            advice = "add --loss.name bce" if option.startswith("loss.name") else "leave it out"
            raise ConfigError(f"option --{option} supposes one label an image, and {train.path} has several: {advice}")


def build_scorer(config: Config, network: Network, dtype: torch.dtype, train: Dataset, val: Dataset) -> Scorer:
    """What evaluates the run on `val`. Raises ConfigError when one of the splits has several labels an image and the other has
    not."""
    if (train.combinations is None) != (val.combinations is None):
        several, single = (train, val) if val.combinations is None else (val, train)
        raise ConfigError(
            f"{several.path} ({several.split}) has several labels an image, and {single.path} ({single.split}) one: give all "
            "images lists"
        )
    if val.combinations is None:
        return Scorer(network, dtype, config.evaluation.flip)
    return MultilabelScorer(network, dtype, config.evaluation.flip, torch.from_numpy(val.combinations))


def class_weights(wanted: str, train: Dataset) -> torch.Tensor:
    """float32 (classes,): balanced, by the images of `train`, or as a JSON file of names says, 1 for those that it leaves out.
    Of several labels an image, balanced are the images without a class over those with it (PyTorch's pos_weight)."""
    if wanted == "balanced" and train.combinations is not None:
        rows = np.bincount(train.labels(np.arange(len(train))), minlength=len(train.combinations))
        positives = rows @ train.combinations.astype(np.int64)
        return torch.tensor((len(train) - positives) / np.maximum(positives, 1), dtype=torch.float32)
    if wanted == "balanced":
        counts = np.bincount(train.labels(np.arange(len(train))), minlength=len(train.classes))
        return torch.tensor(len(train) / (np.count_nonzero(counts) * np.maximum(counts, 1)), dtype=torch.float32)
    file = Path(wanted).expanduser()
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"option --loss.class_weights is balanced or a JSON file; {file} cannot be read: {error.strerror}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"--loss.class_weights {file} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ConfigError(f"--loss.class_weights {file} is no JSON object of class names and weights")
    for name, value in given.items():
        if name not in train.classes:
            raise ConfigError(f"--loss.class_weights {file}: there is no class {name!r}{nearest(name, train.classes)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
            raise ConfigError(
                f"--loss.class_weights {file}: the weight of {name} must be from 0 to 1000000, not {value!r}"
            )
    return torch.tensor([float(given.get(name, 1)) for name in train.classes])


def build_teacher(options: DistillationConfig, classes: list[str]) -> Teacher | None:
    """The teacher that `options` name, for a student that tells `classes` apart; None without. Raises ConfigError where it
    does not know these classes, NetworkError for a file that holds no network."""
    if not options.teacher:
        return None
    network, weights = network_from_weights(options.teacher)
    if network.in_channels != 3:
        raise ConfigError(
            f"--distillation.teacher {options.teacher} takes images of {network.in_channels} channels, not RGB"
        )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch 2.11's types
    settings, _ = settings_of(network, weights.metadata, weights.assumed)
    known, _ = output_classes(None, weights.metadata.get("classes"), network.num_classes)
    if known is not None and set(classes) <= set(known):
        columns = [known.index(name) for name in classes]
    elif weights.metadata.get("classes") is None and network.num_classes == len(classes):
        columns = list(range(len(classes)))  # said in `words_of`
    else:
        missing = next((name for name in classes if known is None or name not in known), classes[0])
        raise ConfigError(
            f"--distillation.teacher {options.teacher} tells {network.num_classes} classes apart, among which there is no "
            f"{missing!r}: a teacher has to know all {len(classes)} classes of the dataset"
        )
    return Teacher(network, settings.resolution, columns, options.temperature, options.weight)


def words_of(teacher: Teacher, options: DistillationConfig, resolution: int) -> str:
    """How the teacher sees images of `resolution` pixels, and by what its outputs are known."""
    network, own = teacher.network, teacher.resolution
    size = f"{own} pixels" if own == resolution else f"{own} pixels, resized from the {resolution} of training,"
    order = ""
    if teacher.columns.tolist() == list(range(network.num_classes)):
        order = "; its outputs are taken for the classes in their order"
    return (
        f"teacher: {network.name} from {options.teacher}, which sees the crops of training in {size} with its own mean and "
        f"deviation; temperature {options.temperature:g}, {100 * options.weight:g}% of the loss{order}"
    )
