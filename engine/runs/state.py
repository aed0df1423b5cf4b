"""What a run is at a step: the states of all its parts that change. What checkpoints hold."""

from collections.abc import Mapping
from typing import Any, Protocol

from engine.config.options import Config
from engine.runs.identity import Identity


class Part(Protocol):
    """A part of a run that changes while it trains."""

    def state_dict(self) -> dict[str, Any]:
        """Its state: tensors, numbers, strings, lists and dicts of them. Every rank must call it."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Takes a state over."""


class RunState:
    """The parts of a run by name, and what tells this run from others: its options, and what it trains.

    `metadata` is what weights files say of the network, its classes and how it was evaluated. A part that this run does
    without is None.
    """

    def __init__(self, config: Config, metadata: dict[str, Any], identity: Identity, parts: Mapping[str, Part | None]):
        self.metadata, self.identity = metadata, identity
        self._config, self._parts = config, parts

    def state_dict(self) -> dict[str, Any]:
        """The content of a checkpoint, the same for every strategy and number of ranks. Every rank must call it; only
        the first one's result is complete."""
        return {
            "metadata": self.metadata,
            "identity": self.identity.to_dict(),
            "config": self._config.to_dict(),
            **{name: part.state_dict() if part else None for name, part in self._parts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what a checkpoint holds. A part whose state is None stays as it is."""
        for name, part in self._parts.items():
            if part is not None and state.get(name) is not None:
                part.load_state_dict(state[name])
