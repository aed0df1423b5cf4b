"""Where a run starts: afresh, where its directory stands, at a checkpoint gone back to, or on a branch from another run.

All of it is the first rank's to decide; the others are told.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config.options import Config, ConfigError
from engine.config.same_run import differences, evaluation_differences
from engine.runs.branching import branched
from engine.runs.checkpoint_file import checkpoint_step, list_checkpoints, load_checkpoint, load_newest
from engine.runs.identity import Identity, data_differences
from engine.runs.run_directory import RunDirectory, understood
from pipelines.plan.plan import Plan

MOST_NAMED = 3


@dataclass
class Start:
    """path: the checkpoint to start from, and state: what it holds; None for a fresh start. end: the row that ended the
    directory's run, when nothing is left to train. event: how the run begins, for its metrics. lines: what is to be said."""

    path: Path | None = None
    state: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    event: str = "resumed"
    lines: list[str] = field(default_factory=list)


def global_batch_size(config: Config, directory: RunDirectory) -> int | None:
    """A run that goes on in its directory keeps its global batch, whatever the number of ranks is now."""
    given = config.data.global_batch_size
    if given is not None or config.run.resume == "never":
        return given
    saved = directory.saved_config()
    return saved.data.global_batch_size if saved is not None else None


def goes_on(config: Config, directory: RunDirectory) -> bool:
    """Whether the run of `config` is begun already, in its directory or at a checkpoint that is named."""
    return directory.holds_run or config.run.resume not in ("auto", "never")


def find_start(config: Config, identity: Identity, directory: RunDirectory, plan: Plan) -> Start:
    """Where the run of `config` starts, as `run.resume` and `run.branch` say; what a return to an earlier checkpoint
    supersedes is set aside.

    Raises ConfigError when the directory holds another run, CheckpointError when there are checkpoints and none can be read.
    """
    saved = directory.saved_config()
    if saved is not None and not config.run.branch:
        config.run.branch = saved.run.branch
    named = config.run.resume if config.run.resume not in ("auto", "never") else ""
    repeated = saved is not None and saved.run.resume == config.run.resume
    if named and not (repeated and directory.holds_run):
        return _at(Path(named), config, identity, directory)
    if config.run.branch and not directory.holds_run:
        path = Path(config.run.branch)
        whole = load_checkpoint(path)
        _require_order(whole["metadata"]["classes"], identity, directory, path)
        state, lines = branched(path, whole, config, identity, plan)
        return Start(path, state, event="branched", lines=lines)
    if saved is not None and config.run.branch != saved.run.branch and directory.holds_run:
        raise ConfigError(f"{directory.path} holds a run already: choose another --run.dir for the branch")
    if saved is not None:
        _require_same_run(config, identity, saved, directory.saved_identity(), directory)
    end = directory.metrics.end()
    lines = []
    if end is not None and saved is not None:
        if _is_over(config, identity, saved, end, directory):
            return Start(end=end)
        what = (
            f"reached its target of {saved.run.target_top1:g}% top-1"
            if end["reason"] == "target"
            else "had stopped early"
        )
        lines.append(f"{directory.path} {what}; training goes on")
    found = load_newest(directory.checkpoints)
    if named and Path(named).exists():  # the command is repeated: it goes on from what it has trained since
        state = load_checkpoint(Path(named))
        if found is None or state["progress"]["step"] > found[1]["progress"]["step"]:
            found = Path(named), state, []
    if found is None:
        return Start(lines=lines)
    path, state, refused = found
    _require_same_run(config, identity, understood(path, state["config"]), _identity_in(state), directory)
    return Start(path, state, lines=[*refused, *lines])


def _at(path: Path, config: Config, identity: Identity, directory: RunDirectory) -> Start:
    """The start at a checkpoint that was named, in the directory it lies in or in one that holds nothing yet."""
    state = load_checkpoint(path)
    own = path.resolve().is_relative_to(directory.checkpoints.resolve())
    if directory.holds_run and (not own or directory.metrics.end() is not None):
        what = "a finished run" if own else f"another run than {path} is of"
        raise ConfigError(
            f"{directory.path} holds {what}, which would be lost: to go on from {path}, choose another --run.dir and either "
            f"--run.resume {path} (the same options) or --run.branch {path} (others)"
        )
    _require_same_run(config, identity, understood(path, state["config"]), _identity_in(state), directory, path)
    line = directory.set_aside(state["progress"]["step"])
    return Start(path, state, lines=[line] if line else [])


def _identity_in(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of what it trained; earlier versions only counted."""
    counted = {"images": state.get("dataset_size"), "classes": len(state["metadata"]["classes"])}
    names = {"names": state["metadata"]["classes"]}
    known = state.get("identity") or {name: count for name, count in counted.items() if count is not None}
    return known | names


def _require_same_run(
    config: Config,
    identity: Identity,
    saved: Config,
    trained: dict[str, Any],
    directory: RunDirectory,
    where: Path | None = None,
) -> None:
    _require_order(trained.get("names", identity.names), identity, directory, where)
    found = differences(config, saved) + data_differences(identity, trained)
    if identity.weights is not None and trained.get("weights", identity.weights) != identity.weights:
        found.append("other initial weights (--network.weights)")
    if trained.get("teacher", identity.teacher) != identity.teacher:
        found.append("another teacher (--distillation.teacher)")
    if found:
        raise _refusal(found, "a run", directory, where)


def _require_order(names: list[str], identity: Identity, directory: RunDirectory, where: Path | None) -> None:
    """Raises ConfigError when the dataset has the classes `names` in another order, and leaves a file of the right one."""
    if names == identity.names or sorted(names) != sorted(identity.names):
        return
    file = directory.checkpoints / "classes.txt"
    file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", errors="surrogateescape")
    raise ConfigError(
        f"{where or directory.path} has the same classes as the dataset in another order: go on with --data.classes {file}"
    )


def _is_over(config: Config, identity: Identity, saved: Config, end: dict[str, Any], directory: RunDirectory) -> bool:
    """Whether nothing is left to train. Raises ConfigError when the finished run is not the one that was asked for."""
    trained, found = directory.saved_identity(), []
    if trained.get("weights", identity.weights) != identity.weights:
        found.append("other initial weights (--network.weights)")
    if trained.get("val", identity.val) != identity.val:
        found.append("other evaluation images")
    wanted, had = config.run.target_top1, saved.run.target_top1
    if not found and end["reason"] == "target" and (wanted is None or wanted > end["best_top1"]):
        return False
    longer = config.schedule.stop_after == 0 or config.schedule.stop_after > saved.schedule.stop_after
    if not found and end["reason"] == "stopped early" and longer:
        return False
    if wanted != had:
        found.append(f"--run.target_top1 {had}, not {wanted}")
    found += evaluation_differences(config, saved)
    if found:
        raise _refusal(found, "a finished run", directory)
    return True


def _refusal(found: list[str], what: str, directory: RunDirectory, where: Path | None = None) -> ConfigError:
    """What differs, and the command that does what may have been meant."""
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    checkpoints = list_checkpoints(directory.checkpoints)
    file = where or (max(checkpoints, key=checkpoint_step) if checkpoints else None)
    branch = f", or --run.dir NEW --run.branch {file} to go on from its weights and optimizer" if file else ""
    return ConfigError(
        f"{where or directory.path} holds {what} with {', '.join(found[:MOST_NAMED])}{more}: give what it was started with "
        f"to continue it, choose another --run.dir for a new run{branch}"
    )
