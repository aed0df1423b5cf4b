"""Going on where a run directory stands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.config.options import Config
from engine.config.same_run import check_same_run
from engine.distributed.communicator import Communicator
from engine.runs.checkpoint_file import load_checkpoint
from engine.runs.run_directory import RunDirectory
from engine.runs.state import RunState


def keep_global_batch(config: Config, directory: RunDirectory) -> None:
    """A run that goes on in its directory keeps its global batch, whatever the number of ranks is now."""
    saved = directory.saved_config() if config.run.resume == "auto" else None
    if saved is not None and config.data.global_batch_size is None:
        config.data.global_batch_size = saved.data.global_batch_size


def finished_before(config: Config, directory: RunDirectory, communicator: Communicator) -> dict[str, Any] | None:
    """The row that ended the directory's run, None when it is to train. Raises ConfigError for another run's."""
    end = directory.metrics.end() if config.run.resume == "auto" and communicator.is_main else None
    end = communicator.broadcast(end)
    saved = directory.saved_config() if end is not None else None
    if saved is not None:
        check_same_run(config, saved, directory.path)
    return end


def resume(
    config: Config,
    directory: RunDirectory,
    state: RunState,
    communicator: Communicator,
    say: Callable[[str], None],
) -> Path | None:
    """Gives every part of `state` what the checkpoint to start from holds; returns its path, None for a fresh start.

    Damaged checkpoints that were passed over are named. Raises what `RunDirectory.find_start` and `load_checkpoint` do.
    """
    found = communicator.broadcast(directory.find_start(config) if communicator.is_main else None)
    path, refused = found or (None, [])
    for line in refused:
        say(line)
    if path is not None:
        state.load_state_dict(load_checkpoint(path), path)
    return path
