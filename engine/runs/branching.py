"""A new run that begins with another's weights, optimizer and average, and with other options."""

from pathlib import Path
from typing import Any

from engine.config.options import Config, ConfigError
from engine.config.same_run import network_differences
from engine.runs.identity import Identity
from engine.runs.run_directory import understood
from pipelines.plan.plan import Plan


def branched(
    path: Path, state: dict[str, Any], config: Config, identity: Identity, plan: Plan
) -> tuple[dict[str, Any], list[str]]:
    """The state of the checkpoint `path` as the beginning of another run, and what is to be said about it.

    The place in the run is kept, in epochs; with the same data and global batch it is the same step. Raises ConfigError
    when the network is another, or no epoch is left.
    """
    before = understood(path, state["config"])
    misfits = network_differences(config, before)
    classes = len(state["metadata"]["classes"])
    if classes != identity.classes:
        misfits.append(f"{classes} classes, not {identity.classes}")
    if misfits:
        raise ConfigError(
            f"{path} is of a network with {', '.join(misfits)}: a branch keeps it; to start another from its weights, use "
            f"--network.weights {path} instead of --run.branch"
        )
    images = state["identity"]["images"] if "identity" in state else state["dataset_size"]
    progress = _placed(state["progress"], images, plan)
    done = progress["samples_seen"] // plan.samples
    if done >= config.schedule.epochs:
        raise ConfigError(
            f"{path} stands at epoch {done} and --schedule.epochs is {config.schedule.epochs}: nothing would be trained; "
            "give more epochs in all"
        )
    lines = [
        f"branched from {path} at epoch {progress['samples_seen'] / plan.samples:.4g} of now {config.schedule.epochs}"
    ]
    names = state["metadata"]["classes"]
    renamed = [pair for pair in zip(names, identity.names) if pair[0] != pair[1]]
    if renamed:
        was, is_now = renamed[0]
        lines.append(
            f"{len(renamed)} classes have other names than in {path} ({is_now!r} where {was!r} was): the classifier begins with "
            "what it learned of those"
        )
    lowered = state.get("improvement", {}).get("lowered", 0) if config.schedule.kind == "plateau" else 0
    if lowered:
        lines.append(
            f"the learning rate goes on as the plateau schedule left it, lowered {lowered} time{'s' if lowered > 1 else ''}"
        )
    changed: dict[str, Any] = {
        "progress": progress, "recent": {"means": []},
        "improvement": {"best": -1.0, "since_best": 0, "lowered": lowered, "step": -1, "waited": 0},
    }  # fmt: skip
    if config.optimizer.name != before.optimizer.name:
        changed["optimizer"] = None
        lines.append(
            f"the optimizer starts afresh: {config.optimizer.name} cannot use the state of {before.optimizer.name}"
        )
    elif _frozen(config) != _frozen(before):
        changed["optimizer"] = None
        lines.append("the optimizer starts afresh: other weights are frozen than were")
    if config.ema.averages and state["ema"] is None:
        changed["ema"] = state["network"]
        lines.append("the average of the weights starts at this checkpoint, which has none")
    return {**state, **changed}, lines


def _frozen(config: Config) -> tuple[str | None, bool]:
    return config.network.freeze, config.network.freeze_batch_norm


def _placed(progress: dict[str, Any], images: int, plan: Plan) -> dict[str, Any]:
    """`progress` at the same place in an epoch of `plan`, at the nearest step; nothing is evaluated yet."""
    step, seen = progress["step"], progress["samples_seen"]
    if step:
        before = seen // step  # the global batch
        epochs = seen / (images // before * before)
        step = round(epochs * plan.batches)
    return {**progress, "step": step, "samples_seen": step * plan.global_batch, "best_top1": -1.0}
