"""A run in Weights & Biases; WANDB_PROJECT, WANDB_ENTITY and its other variables hold."""

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb

from engine.config.options import ConfigError
from engine.monitoring.trackers.tracker import PROJECT, Tracker


class WeightsAndBiases(Tracker):
    """Its system metrics come along; its view of the terminal does not."""

    name = "wandb"

    @classmethod
    def require(cls, offline: bool) -> None:
        """Raises ConfigError where nobody has logged in: its library would ask on the terminal in the middle of a run."""
        if not offline and os.environ.get("WANDB_MODE", "online") == "online" and not _has_key():
            raise ConfigError(
                "option --monitor.trackers wandb: nobody has logged in here: run `wandb login`, set WANDB_API_KEY, or add "
                "--monitor.offline true and `wandb sync` later"
            )

    def begin(self, known: str | None, name: str, settings: dict[str, Any]) -> str:
        self.own_folder.mkdir(exist_ok=True)
        self._session = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=known,
            resume="allow" if known else None,
            dir=self.own_folder,
            config=settings,
            mode="offline" if self.offline else None,
            settings=wandb.Settings(console="off", silent=True),
        )
        return str(self._session.id)

    def log(self, curves: dict[str, float], step: int, when: float) -> None:
        self._session.log(curves, step=step)

    def finish(self, files: list[Path], reason: str) -> None:
        artifact = wandb.Artifact(f"{self._session.id}-run", type="run")
        for file in files:
            artifact.add_file(str(file))
        self._session.log_artifact(artifact)
        self._session.finish(exit_code=int(reason == "failed"))


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
