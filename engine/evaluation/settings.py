"""How images are shown to a network: weights files carry what their run used, or what their publisher did; options override
it."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.config.bounds import Bounds, bounds_of
from engine.config.checks import require_within
from engine.config.learning_options import EvaluationConfig
from engine.config.options import ConfigError
from inception.vocabulary.errors import NetworkError
from inception.vocabulary.network import Network
from pipelines import EvalPlan

KEY = "evaluation"  # in the metadata of weights files
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Settings:
    """resolution: pixels a side; crop_fraction: the share of the shorter side whose square is cut out and resized; resize: or
    else the pixels that the shorter side is resized to before the square in the middle is cut out (0: cut first); interpolation:
    of the resize, always antialiased; mean, std: of each channel, for images scaled to 0..1; exif: images are turned as their
    EXIF says; flip: the prediction is averaged with that of the mirrored image; average: whether the weights are averages;
    recalibrated: whether batch normalisation's statistics were measured for them."""

    resolution: int
    crop_fraction: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int = 0
    interpolation: str = "bilinear"
    exif: bool = True
    flip: bool = False
    average: bool = False
    recalibrated: bool = False

    def plan(self, length: int, global_batch: int) -> EvalPlan:
        """The plan of evaluating `length` images."""
        return EvalPlan(length, global_batch, self.crop_fraction, self.resize, self.interpolation)

    def to_dict(self) -> dict[str, Any]:
        """As metadata holds it."""
        return asdict(self)

    def __str__(self) -> str:
        flip = "and mirrored, " if self.flip else ""
        average = ", averaged weights" if self.average else ""
        average += " with statistics of their own" if self.recalibrated else ""
        part = f"{self.crop_fraction:g} of the shorter side"
        if self.resize:
            part = f"the centre of images whose shorter side is resized to {self.resize}"
        exif = "" if self.exif else ", EXIF ignored"
        normal = f"mean {_rounded(self.mean)}, deviation {_rounded(self.std)}"
        return f"{self.resolution} pixels, {flip}{part}, {self.interpolation}, antialiased{exif}, {normal}{average}"


def stored_settings(metadata: Mapping[str, Any]) -> tuple[Settings, str]:
    """How a file's `metadata` says that images are shown to its network, which is as its design has it where it says no more;
    and in words, who says so."""
    named = [metadata[name] for name in ("input_size", "crop_fraction", "mean", "std")]
    design = Settings(named[0], named[1], tuple(named[2]), tuple(named[3]))
    stored = metadata.get(KEY)
    if not isinstance(stored, Mapping):
        return design, "as its design says"
    fields = {name: stored.get(name, value) for name, value in asdict(design).items()}
    fields["interpolation"] = str(fields["interpolation"]).partition(",")[0]  # "bilinear, antialiased" in older files
    fields["mean"], fields["std"] = (tuple(map(float, fields[name])) for name in ("mean", "std"))
    if fields["interpolation"] not in INTERPOLATIONS:
        raise NetworkError(f"the weights want an interpolation {fields['interpolation']!r}; known are {INTERPOLATIONS}")
    publisher = metadata.get("published")
    return Settings(**fields), f"as {publisher} has it" if publisher else "as its run evaluated"


def overridden(known: Settings, options: Mapping[str, Any]) -> Settings:
    """`known` with the `options` that are given: fields of `Settings`; None and 0 are not given. A resize that was not given
    keeps its proportion to the resolution."""
    given: dict[str, Any] = {
        name: value for name, value in options.items() if value is not None and (value or value is False)
    }
    if "crop_fraction" in given and "resize" not in given:
        given["resize"] = 0
    chosen = replace(known, **given)
    if chosen.resize and "resize" not in given and chosen.resolution != known.resolution:
        chosen = replace(chosen, resize=known.resize * chosen.resolution // known.resolution)
    return chosen


def settings_of(
    network: Network, metadata: Mapping[str, Any], assumed: str = "", **options: Any
) -> tuple[Settings, str]:
    """How images are shown to `network`, whose mean and deviation become those: as `options` say (see `overridden`), else as the
    file's `metadata` does, else as the network's design does; and in words where that comes from, with what had to be
    `assumed`. Raises NetworkError for a size the network is too deep for, ConfigError for options that contradict each other."""
    known, source = stored_settings(
        {**network.metadata(), KEY: metadata.get(KEY), "published": metadata.get("published")}
    )
    chosen = overridden(known, options)
    if chosen.resolution < network.smallest_size:
        raise NetworkError(
            f"{network.name} takes images of at least {network.smallest_size} pixels, not {chosen.resolution}"
        )
    if assumed:
        source += f"; {assumed}"
    check_settings(chosen, network.in_channels)
    network.crop_fraction = chosen.crop_fraction
    network.mean, network.std = chosen.mean, chosen.std
    return chosen, source if chosen == known else f"{source}, but for the options given"


def check_settings(settings: Settings, channels: int) -> None:
    """ConfigError where the parts contradict each other, or the network."""
    if settings.resize and settings.resize < settings.resolution:
        raise ConfigError(
            f"no square of {settings.resolution} pixels can be cut out of images whose shorter side is resized to "
            f"{settings.resize}: set --evaluation.resize to {settings.resolution} or more, or --evaluation.crop_fraction"
        )
    for name, values in (("mean", settings.mean), ("std", settings.std)):
        if len(values) != channels:
            raise ConfigError(f"--evaluation.{name} has {len(values)} numbers for images of {channels} channels")
    if min(settings.std) <= 0:
        raise ConfigError(f"--evaluation.std must be above 0, not {_rounded(settings.std)}")


def add_options(parser: argparse.ArgumentParser, resolution: str) -> None:
    """The options by which a command overrides what weights say; `resolution`: another name of that option."""
    add = parser.add_argument_group("how images are shown to the network").add_argument
    add(
        "--evaluation.resolution",
        resolution,
        dest="resolution",
        type=int,
        default=0,
        help="pixels (default: the run's)",
    )
    add(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="average with the prediction for the mirrored image (default: as the run that made the weights)",
    )
    add(
        "--evaluation.crop_fraction",
        "--crop_fraction",
        dest="crop_fraction",
        type=float,
        default=0.0,
        help="share of the shorter side that is looked at (default: the run's)",
    )
    add(
        "--evaluation.resize",
        dest="resize",
        type=int,
        default=0,
        help="pixels that the shorter side is resized to before the centre is cut out (default: the weights')",
    )
    add("--evaluation.interpolation", dest="interpolation", choices=INTERPOLATIONS, help="default: the weights'")
    for name in ("mean", "std"):
        add(
            f"--evaluation.{name}",
            dest=name,
            type=_numbers,
            metavar="R,G,B",
            help="of the channels, for images scaled to 0..1 (default: the weights')",
        )
    add(
        "--evaluation.exif",
        dest="exif",
        type=_truth,
        metavar="true|false",
        help="turn images as their EXIF says, or show them as they are stored (default: the weights')",
    )


def check_options(options: argparse.Namespace, resolution: str) -> None:
    """ConfigError for what is out of bounds of what `add_options` added; `resolution`: as there, without its dashes."""
    limits = dict(bounds_of(EvaluationConfig()))
    require_within(
        {resolution: options.resolution, "crop_fraction": options.crop_fraction, "evaluation.resize": options.resize},
        {
            resolution: limits["resolution"],
            "crop_fraction": Bounds(least=0, most=1),
            "evaluation.resize": limits["resize"],
        },
    )
    if options.resize and options.crop_fraction:
        raise ConfigError("--evaluation.resize and --evaluation.crop_fraction are two ways to say the same: give one")


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_options` added, for `settings_of`."""
    names = ("resolution", "crop_fraction", "resize", "interpolation", "mean", "std", "exif", "flip")
    return {name: getattr(options, name) for name in names}


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.strip("()[]").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0.5,0.5,0.5") from None


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _rounded(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
