"""A run's first moments: from where it goes on, and what its directory says from then on."""

from engine.runs.resuming import Start, find_start
from engine.training.assembly import Run


def begin(run: Run) -> Start:
    """Gives every part of the run what the checkpoint to start from holds, on every rank, and says where that is.

    With an `end` in what it returns, nothing is left to train and nothing was touched. Raises ConfigError when the directory
    holds another run, CheckpointError when it has checkpoints and none can be read.
    """
    directory, communicator, say = run.directory, run.communicator, run.monitor.say
    start = communicator.from_first(lambda: find_start(run.config, run.state.identity, directory, run.loader.plan))
    for line in start.lines:
        say(line)
    if start.end is not None:
        say(
            f"{directory.path} holds a finished run ({start.end['reason']}, best top-1 {start.end['best_top1']:.2f}%); "
            "for another one choose another --run.dir"
        )
        return start
    if start.state is not None:
        run.state.load_state_dict(start.state)
        start.state = None  # as large as the run itself
    if communicator.is_main:
        directory.describe(run.config, run.state.identity)
        directory.metrics.rewind(run.progress.step)
        if start.path is not None and start.path.parent == directory.checkpoints:
            run.writer.saved_step = run.progress.step
    run.improvement.catch_up(communicator.from_first(directory.metrics.top1_by_step))
    _find_best(run)
    if start.path is not None:
        if start.event == "resumed":
            say(f"resumed from {start.path} at step {run.progress.step}")
        run.recorder.event(start.event)
    run.loader.load_state_dict({"samples_seen": run.progress.samples_seen})
    return start


def _find_best(run: Run) -> None:
    """The best accuracy so far is that of the best weights that are there: the checkpoint may be older than its
    evaluation, or lie in another directory."""
    directory, progress = run.directory, run.progress

    def best() -> float | None:
        return directory.metrics.best_top1() if directory.best_weights.exists() else -1.0

    found = run.communicator.from_first(best)
    if found == -1.0 and progress.best_top1 >= 0:
        run.monitor.say(f"no best weights so far in {directory.checkpoints}: the best are counted from here on")
    if found is not None:
        progress.best_top1 = found
