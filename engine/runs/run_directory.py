"""The run directory: what a run leaves behind, and the guard against mixing two runs in one place."""

import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from engine.config.command_line import config_from_dict
from engine.config.options import Config, ConfigError, leaves
from engine.runs.checkpoint_file import list_checkpoints, load_newest
from engine.runs.metrics import MetricsFile

# What may differ between the parts of one run: how fast and where it runs, not what it computes.
_FREE = (
    "run.dir", "run.resume", "run.target_top1", "data.path", "data.backend", "data.batch_size", "data.workers",
    "data.prefetch", "data.on_error", "network.weights", "evaluation.batch_size", "compile.enabled", "compile.mode",
    "compile.scope", "compile.cache",
    "strategy.name", "strategy.zero_stage", "strategy.deepspeed_config", "strategy.timeout", "checkpoint.every_seconds",
    "checkpoint.keep", "monitor.every_steps", "profile.steps", "profile.wait",
)  # fmt: skip


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


def check_same_run(config: Config, saved: Config, where: Path) -> None:
    """Raises ConfigError naming the first option whose change would make `config` another run than `saved`."""
    before = dict(leaves(saved))
    for key, value in leaves(config):
        if key not in _FREE and not key.startswith(("data.dali.", "data.ffcv.")) and value != before[key]:
            raise ConfigError(
                f"{where} holds a run with --{key} {before[key]}, not {value}: choose another --run.dir for a new run, "
                f"or drop the option to continue this one"
            )


def describe_environment() -> dict[str, Any]:
    """The machine, the versions, the state of the source and the command, for a reader who wants to repeat the run."""
    packages = ("torch", "torchvision", "timm", "numpy", "pillow", "nvidia-dali-cuda120", "ffcv", "deepspeed", "mpi4py")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "command": shlex.join(sys.argv),
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := _version(name))},
        "git": _git("rev-parse", "HEAD"),
        "git_changed_files": len((_git("status", "--porcelain") or "").splitlines()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
