"""The networks that an evaluation asks: one, or several whose predictions are averaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.config.options import ConfigError
from engine.evaluation.settings import Settings, settings_of
from engine.graphs.scorer import Scorer
from inception import network_from_weights
from inception.vocabulary.network import Network

KINDS: Mapping[str, tuple[bool | None, ...]] = {
    "auto": (None,), "averaged": (True,), "trained": (False,), "both": (True, False),
}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """A network with the weights of a file, how images are shown to it and who says so (in words), and the file's metadata."""

    file: str
    network: Network
    settings: Settings
    source: str
    metadata: Mapping[str, Any]

    def scorer(
        self,
        dtype: torch.dtype,
        device: torch.device,
        flip: bool,
        among: Sequence[int] | None,
        classes: Sequence[str] | None,
    ) -> Scorer:
        """Its graph of an evaluation step, with its outputs in the order of `classes`. Raises ConfigError where it
        does not know one of them."""
        self.network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # not in torch 2.11's types
        return Scorer(self.network, dtype, flip, among, self._order(classes)).to(device)

    def _order(self, classes: Sequence[str] | None) -> list[int] | None:
        own = self.metadata.get("classes")
        if own is None or classes is None or list(own) == list(classes):
            return None
        places = {name: place for place, name in enumerate(own)}
        if missing := [name for name in classes if name not in places]:
            raise ConfigError(
                f"{self.file} does not know the class {missing[0]!r}: no predictions that could be averaged"
            )
        return [places[name] for name in classes]


def open_members(files: Sequence[str], averaged: bool | None, options: Mapping[str, Any]) -> list[Member]:
    """The networks of the files, each shown images as it knows them unless `options` say otherwise; averaged: as
    `inception.network_from_weights` has it. Raises ConfigError for networks that tell other numbers of classes apart."""
    members = []
    for file in files:
        network, weights = network_from_weights(file, averaged)
        settings, source = settings_of(network, weights.metadata, weights.assumed, **options)
        members.append(Member(file, network, settings, source, weights.metadata))
    first = members[0]
    for member in members[1:]:
        if member.network.num_classes != first.network.num_classes:
            raise ConfigError(
                f"{first.file} tells {first.network.num_classes} classes apart and {member.file} {member.network.num_classes}: "
                "predictions of different classes cannot be averaged"
            )
    return members
