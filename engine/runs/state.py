"""What a run is at a step: the states of all its parts that change. What checkpoints hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from engine.config.command_line import config_from_dict
from engine.config.options import Config, ConfigError
from engine.config.same_run import check_same_run


class Part(Protocol):
    """A part of a run that changes while it trains."""

    def state_dict(self) -> dict[str, Any]:
        """Its state: tensors, numbers, strings, lists and dicts of them. Every rank must call it."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Takes a state over."""


class RunState:
    """The parts of a run by name, and what tells this run from others: its options and its dataset.

    `metadata` is what weights files say of the network and its classes; `images` counts the training split. A part that
    this run does without is None.
    """

    def __init__(self, config: Config, metadata: dict[str, Any], images: int, parts: Mapping[str, Part | None]):
        self.metadata, self._images = metadata, images
        self._config, self._parts = config, parts

    def state_dict(self) -> dict[str, Any]:
        """The content of a checkpoint, the same for every strategy and number of ranks. Every rank must call it; only
        the first one's result is complete."""
        return {
            "metadata": self.metadata,
            "dataset_size": self._images,
            "config": self._config.to_dict(),
            **{name: part.state_dict() if part else None for name, part in self._parts.items()},
        }

    def load_state_dict(self, state: dict[str, Any], where: Path) -> None:
        """Becomes what the checkpoint `where` holds. Raises ConfigError when it is of another run or dataset."""
        check_same_run(self._config, config_from_dict(state["config"]), where)
        classes = state["metadata"]["classes"]
        if classes != self.metadata["classes"] and sorted(classes) == sorted(self.metadata["classes"]):
            file = where.parent / "classes.txt"
            file.write_text("".join(f"{name}\n" for name in classes), encoding="utf-8", errors="surrogateescape")
            raise ConfigError(
                f"{where} has the same classes as the dataset in another order: go on with --data.classes {file}"
            )
        if classes != self.metadata["classes"] or state["dataset_size"] != self._images:
            raise ConfigError(
                f"{where} was trained on another dataset (classes or number of images): choose another --run.dir"
            )
        for name, part in self._parts.items():
            if part is not None and state[name] is not None:
                part.load_state_dict(state[name])
