"""A run in Trackio: in its own folder of this machine, or in the Space or on the server that its variables name."""

import os
from pathlib import Path
from typing import Any

import trackio

from engine.monitoring.trackers.tracker import PROJECT, Tracker


class Trackio(Tracker):
    """`trackio show` opens the curves."""

    name = "trackio"

    def begin(self, known: str | None, name: str, settings: dict[str, Any]) -> str:
        if self.offline:
            for variable in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
                os.environ.pop(variable, None)
        called = known or name
        self._session = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=called,
            config=settings,
            resume="allow",
            embed=False,
        )
        return called

    def log(self, curves: dict[str, float], step: int, when: float) -> None:
        self._session.log(curves, step=step)

    def finish(self, files: list[Path], reason: str) -> None:
        artifact = trackio.Artifact(f"{self._session.name}-run", type="run")
        for file in files:
            artifact.add_file(str(file))
        trackio.log_artifact(artifact)
        self._session.finish()
