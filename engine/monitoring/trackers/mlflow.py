"""A run in MLflow: on the server that MLFLOW_TRACKING_URI names, else in a database beside the run directories."""

import os
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunStatus
from mlflow.tracking import MlflowClient

from engine.config.options import flat
from engine.monitoring.trackers.tracker import PROJECT, Tracker

_AT_ONCE = 100  # parameters that a call may hold
_LONGEST = 500  # of a value, in the oldest servers


class MLflow(Tracker):
    """Every option is a parameter, every number a metric."""

    name = "mlflow"

    def begin(self, known: str | None, name: str, settings: dict[str, Any]) -> str:
        # Two tries of half a minute, instead of seven of two: the tracker has tries of its own.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        local = f"sqlite:///{self.folder.parent / 'mlflow.db'}"
        uri = local if self.offline else os.environ.get("MLFLOW_TRACKING_URI", local)
        self._client = MlflowClient(uri)
        if known is not None:
            self._client.update_run(known, RunStatus.to_string(RunStatus.RUNNING))
            self._id = known
            return known
        self._id = self._client.create_run(self._experiment(uri == local), run_name=name).info.run_id
        parameters = [Param(key, str(value)[:_LONGEST]) for key, value in flat(settings)]
        for first in range(0, len(parameters), _AT_ONCE):
            self._client.log_batch(self._id, params=parameters[first : first + _AT_ONCE])
        return str(self._id)

    def _experiment(self, local: bool) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        files = (self.folder.parent / "mlartifacts").as_uri() if local else None
        return str(self._client.create_experiment(name, artifact_location=files))

    def log(self, curves: dict[str, float], step: int, when: float) -> None:
        metrics = [Metric(key, value, round(1000 * when), step) for key, value in curves.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def finish(self, files: list[Path], reason: str) -> None:
        for file in files:
            self._client.log_artifact(self._id, str(file))
        status = {"failed": RunStatus.FAILED, "preempted": RunStatus.KILLED}.get(reason, RunStatus.FINISHED)
        self._client.set_terminated(self._id, RunStatus.to_string(status))
