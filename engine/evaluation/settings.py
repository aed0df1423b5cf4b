"""How images are shown to a network whose accuracy is measured: weights files carry what their run used."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from inception.vocabulary.errors import NetworkError
from inception.vocabulary.network import Network

KEY = "evaluation"  # in the metadata of weights files


@dataclass(frozen=True)
class Settings:
    """resolution: pixels a side; crop_fraction: the share of the shorter side that is looked at; flip: the prediction is
    averaged with that of the mirrored image; interpolation: of the resize; average: whether the weights are averages;
    recalibrated: whether batch normalisation's statistics were measured for them."""

    resolution: int
    crop_fraction: float
    flip: bool = False
    interpolation: str = "bilinear, antialiased"
    average: bool = False
    recalibrated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As metadata holds it."""
        return asdict(self)

    def __str__(self) -> str:
        flip = "and mirrored, " if self.flip else ""
        average = ", averaged weights" if self.average else ""
        average += " with statistics of their own" if self.recalibrated else ""
        return (
            f"{self.resolution} pixels, {flip}{self.crop_fraction:g} of the shorter side, {self.interpolation}{average}"
        )


def settings_of(
    network: Network,
    metadata: Mapping[str, Any],
    *,
    resolution: int = 0,
    crop_fraction: float = 0.0,
    flip: bool | None = None,
) -> tuple[Settings, str]:
    """How images are shown to `network`: as the options given say, else as the file's `metadata` does, else as the network's
    design does; and in words where that comes from. Raises NetworkError for a size the network is too deep for."""
    stored = metadata.get(KEY)
    known = Settings(network.input_size, network.crop_fraction)
    if isinstance(stored, Mapping):
        fields = known.to_dict()
        known = Settings(**{name: stored.get(name, fields[name]) for name in fields})
    chosen = replace(
        known,
        resolution=resolution or known.resolution,
        crop_fraction=crop_fraction or known.crop_fraction,
        flip=known.flip if flip is None else flip,
    )
    if chosen.resolution < network.smallest_size:
        raise NetworkError(
            f"{network.name} takes images of at least {network.smallest_size} pixels, not {chosen.resolution}"
        )
    source = "as its run evaluated" if stored else "as its design says"
    return chosen, source if chosen == known else f"{source}, but for the options given"
