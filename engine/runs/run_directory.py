"""The run directory: what a run leaves behind, and the guard against mixing two runs in one place."""

import json
import os
from pathlib import Path

import yaml

from engine.config.command_line import config_from_dict
from engine.config.options import Config, ConfigError
from engine.config.same_run import check_same_run
from engine.runs.checkpoint_file import list_checkpoints, load_newest
from engine.runs.environment_record import describe_environment
from engine.runs.metrics_file import MetricsFile


class RunDirectory:
    """`runs/<name>/`: config.yaml, environment.json, metrics.jsonl, tensorboard/, checkpoints/, report.html."""

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        self.checkpoints = self.path / "checkpoints"
        self.stacks = self.path / "stacks"
        self.best_weights = self.checkpoints / "best.safetensors"
        self.metrics = MetricsFile(self.path / "metrics.jsonl")

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
        if resume == "never" and (self.metrics.path.exists() or list_checkpoints(self.checkpoints)):
            raise ConfigError(
                f"run directory {self.path} holds a run already: continue it with --run.resume auto, "
                "choose another --run.dir, or remove it"
            )

    def find_start(self, config: Config) -> tuple[Path, list[str]] | None:
        """The checkpoint to start from as `run.resume` says, and a line for each newer one that is damaged; None for a
        fresh start. Raises ConfigError when the directory holds another run, CheckpointError when none can be read."""
        resume = config.run.resume
        if resume not in ("auto", "never"):
            return Path(resume), []
        saved = self.saved_config()
        if saved is not None:
            check_same_run(config, saved, self.path)
        found = load_newest(self.checkpoints)
        return (found[0], found[2]) if found else None

    def describe(self, config: Config) -> None:
        """Writes what the run is and where it runs."""
        (self.path / "config.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
        (self.path / "environment.json").write_text(json.dumps(describe_environment(), indent=2) + "\n")

    def saved_config(self) -> Config | None:
        """The configuration the directory's run was started with, or None when there is none."""
        path = self.path / "config.yaml"
        return config_from_dict(yaml.safe_load(path.read_text())) if path.exists() else None
