"""Where a run's curves go beside its own directory, by name: `--monitor.trackers tensorboard wandb mlflow trackio csv`."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from engine.config.options import ConfigError, MonitorConfig
from engine.monitoring.hooks import Hook
from engine.monitoring.trackers.csv_files import CsvFiles
from engine.monitoring.trackers.tensorboard import TensorBoard
from engine.monitoring.trackers.tracker import Tracker

# Each through its own library, which is an extra of the same name: class by module.
_OF_LIBRARIES = {"wandb": "WeightsAndBiases", "mlflow": "MLflow", "trackio": "Trackio"}


def require_trackers(options: MonitorConfig) -> None:
    """Raises ConfigError for a tracker whose library is not installed, or that nobody has logged in to."""
    for name in set(options.trackers) & set(_OF_LIBRARIES):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"option --monitor.trackers {name}: the package {name} is not installed: pip install {name}, or leave it out"
            )
        _class(name).require(options.offline)


def create_trackers(options: MonitorConfig, folder: Path) -> list[Hook]:
    """The trackers that `options` name, for the run in `folder`."""
    own: dict[str, Callable[[], Hook]] = {
        "tensorboard": lambda: TensorBoard(folder / "tensorboard"),
        "csv": lambda: CsvFiles(folder),
    }
    names = dict.fromkeys(options.trackers)  # each once
    return [own[name]() if name in own else _class(name)(folder, options.offline) for name in names]


def _class(name: str) -> type[Tracker]:
    found: type[Tracker] = getattr(importlib.import_module(f"{__name__}.{name}"), _OF_LIBRARIES[name])
    return found
