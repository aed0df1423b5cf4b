"""The run directory: what a run leaves behind."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from engine.config.command_line import config_from_dict
from engine.config.options import Config, ConfigError
from engine.runs.checkpoint_file import checkpoint_step, list_checkpoints, naming, write_whole
from engine.runs.environment_record import describe_environment
from engine.runs.identity import Identity
from engine.runs.metrics_file import MetricsFile
from inception import NetworkError
from inception.weights.files import read_safetensors


class RunDirectory:
    """`runs/<name>/`: config.yaml, identity.json, environment.json, metrics.jsonl, tensorboard/, checkpoints/, report.html.

    `checkpoints/superseded` holds what lay above a checkpoint that the run went back to.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        self.checkpoints = self.path / "checkpoints"
        self.superseded = self.checkpoints / "superseded"
        self.stacks = self.path / "stacks"
        self.best_weights = self.checkpoints / "best.safetensors"
        self.metrics = MetricsFile(self.path / "metrics.jsonl")
        self._config, self._identity = self.path / "config.yaml", self.path / "identity.json"

    def prepare(self, resume: str) -> None:
        """Creates the directory. Raises ConfigError when it cannot be written, or holds a run that would be lost."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"run directory {self.path} cannot be made: {error.strerror}; choose another --run.dir"
            ) from None
        if not os.access(self.path, os.W_OK):
            raise ConfigError(f"run directory {self.path} cannot be written; choose another --run.dir")
        if resume == "never" and self.holds_run:
            raise ConfigError(
                f"run directory {self.path} holds a run already: continue it with --run.resume auto, "
                "choose another --run.dir, or remove it"
            )

    @property
    def holds_run(self) -> bool:
        """Whether a run has left anything here that another would overwrite."""
        return self.metrics.path.exists() or bool(list_checkpoints(self.checkpoints))

    def describe(self, config: Config, identity: Identity) -> None:
        """Writes what the run is and where it runs."""
        write_whole(self._config, yaml.safe_dump(config.to_dict(), sort_keys=False))
        write_whole(self._identity, json.dumps(identity.to_dict(), indent=2) + "\n")
        write_whole(self.path / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")

    def saved_config(self) -> Config | None:
        """The configuration the directory's run was started with, or None when there is none. Raises ConfigError, naming
        the file, when it cannot be understood."""
        try:
            tree = yaml.safe_load(self._config.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{self._config} cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            tree = None
        if not isinstance(tree, dict):
            raise ConfigError(
                f"{self._config} is empty or damaged: remove it and start again; the checkpoints hold the options too"
            )
        return understood(self._config, tree)

    def saved_identity(self) -> dict[str, Any]:
        """What the directory's run trains, as `Identity.to_dict` gives it; empty where an earlier version did not say so."""
        try:
            with naming(self._identity):
                found = json.loads(self._identity.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def set_aside(self, step: int) -> str:
        """Moves checkpoints, best weights and rows that came after `step` to `superseded`, and says so in one line; an empty
        one when there is nothing."""
        later = [path for path in list_checkpoints(self.checkpoints) if checkpoint_step(path) > step]
        if self.best_weights.exists() and self.best_step() > step:
            later.append(self.best_weights)
        rows = self.metrics.rows_after(step)
        if not later and not rows:
            return ""
        self.superseded.mkdir(exist_ok=True)
        for path in later:
            path.rename(_free_name(self.superseded / path.name))
        self.metrics.move_rows_after(step, _free_name(self.superseded / "metrics.jsonl"))
        return f"set aside in {self.superseded}: {len(later)} files and {len(rows)} rows of after step {step}"

    def best_step(self) -> int:
        """The step that the best weights are of, as they say themselves; beyond all others when they do not."""
        try:
            return int(read_safetensors(self.best_weights).metadata["step"])
        except (NetworkError, KeyError):
            return 2**63


def understood(file: Path, tree: dict[str, Any]) -> Config:
    """The options that `file` holds. Raises ConfigError, naming it, for one that this version does not know."""
    try:
        return config_from_dict(tree)
    except ConfigError as error:
        raise ConfigError(f"{file} was written by another version of this program: {error}") from None


def _free_name(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that does not exist."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found
