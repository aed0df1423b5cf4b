"""What a run is at a step: weights, averages, optimizer, and its place in the data. What checkpoints hold."""

import time
from pathlib import Path
from typing import Any

from engine.config.command_line import config_from_dict
from engine.config.options import Config, ConfigError
from engine.distributed.strategy import Strategy
from engine.runs.checkpoint_file import load_checkpoint
from engine.runs.metrics import RecentSteps
from engine.runs.run_directory import check_same_run
from engine.training.weight_averaging import Ema
from inception.vocabulary.network import Network


class RunState:
    """The parts of a run that change, and the few numbers that say how far it is.

    step: optimizer steps done; samples_seen: images handed out over all ranks, which is the place in the data;
    best_top1: percent, -1 before the first evaluation; seconds: the time the run has taken, interruptions left out.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        ema: Ema | None,
        strategy: Strategy,
        recent: RecentSteps,
        classes: list[str],
        images: int,
        samples_per_epoch: int,
    ):
        self._config, self._network, self._ema, self._strategy = config, network, ema, strategy
        self._recent, self._classes, self._images = recent, classes, images
        self._samples_per_epoch = samples_per_epoch
        self.step = 0
        self.samples_seen = 0
        self.best_top1 = -1.0
        self._started, self._seconds_before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def position(self) -> dict[str, Any]:
        """Where the run stands, as every row of metrics.jsonl begins."""
        return {
            "step": self.step,
            "epoch": round(self.samples_seen / self._samples_per_epoch, 4),
            "samples": self.samples_seen,
            "time": round(self.seconds, 3),
        }

    def metadata(self) -> dict[str, Any]:
        """What a weights file says about its network and classes."""
        return {**self._network.metadata(), "classes": self._classes}

    def to_dict(self, recent: list[list[float]]) -> dict[str, Any]:
        """The content of a checkpoint, the same for every strategy and number of ranks; `recent` holds the means of the
        steps since the last row. Every rank must call it; only the first one's result is complete."""
        return {
            "metadata": self.metadata(),
            "network": self._network.state_dict(),
            "ema": self._ema.state_dict() if self._ema else None,
            "optimizer": self._strategy.optimizer_state(),
            "step": self.step,
            "samples_seen": self.samples_seen,
            "best_top1": self.best_top1,
            "seconds": self.seconds,
            "recent": recent,
            "dataset_size": self._images,
            "config": self._config.to_dict(),
        }

    def load(self, path: Path) -> None:
        """Becomes what the checkpoint `path` holds. Raises CheckpointError when it cannot be read and ConfigError when
        it is of another run or dataset."""
        state = load_checkpoint(path)
        check_same_run(self._config, config_from_dict(state["config"]), path)
        if state["metadata"]["classes"] != self._classes or state["dataset_size"] != self._images:
            raise ConfigError(
                f"{path} was trained on another dataset (classes or number of images): choose another --run.dir"
            )
        self._network.load_state_dict(state["network"])
        if self._ema is not None and state["ema"] is not None:
            self._ema.load_state_dict(state["ema"])
        self._strategy.load_optimizer_state(state["optimizer"])
        self.step, self.samples_seen = state["step"], state["samples_seen"]
        self.best_top1, self._seconds_before = state["best_top1"], state["seconds"]
        self._recent.load(state["recent"])
