"""Numbers that are no numbers: found before they are saved or evaluated, and what to do about them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from engine.distributed.loss_scale import LEAST
from engine.faults.errors import Diverged, TrainingFailed
from engine.runs.checkpoint_file import list_checkpoints, load_newest
from engine.training.assembly import Run
from engine.training.progress import first_not_finite


def all_finite(tree: Any) -> bool:
    """Whether every floating-point tensor in nested dicts and lists holds finite numbers alone. Waits for the device."""
    tensors = list(_tensors(tree))
    return not tensors or bool(torch.stack([tensor.isfinite().all().cpu() for tensor in tensors]).all())


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor) and tree.is_floating_point():
        yield tree
    elif isinstance(tree, Mapping | list):
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _tensors(value)


def require_finite(run: Run, means: list[list[float]], gradient_norm: Tensor | None = None) -> list[list[float]]:
    """The recent steps' `means`. Raises Diverged when a loss, or the last gradient, is not finite, and when in fp16 no
    gradient was, however small the loss was made."""
    step, bad = run.progress.step, first_not_finite(means)
    if bad is not None:
        raise diverged(run, f"the loss became {means[bad][0]}", step - len(means) + bad + 1)
    if gradient_norm is not None and not gradient_norm.isfinite():
        raise diverged(run, f"the gradient became {float(gradient_norm)}", step)
    scale = run.parallelism.loss_scale
    if scale is not None and scale.value < LEAST:
        raise diverged(run, f"the loss scale fell to {scale.value:g}: in fp16 no gradient was finite", step)
    return means


def diverged(run: Run, what: str, step: int) -> Diverged:
    """The error that says `what` happened at `step`, counted from 1, and which commands go on from here."""
    checkpoints = list_checkpoints(run.directory.checkpoints)
    lower = f"a lower --optimizer.lr than {run.config.optimizer.lr:g}"
    remedy = f"{lower}, a longer --schedule.warmup_epochs or an --optimizer.clip_norm"
    if checkpoints:
        advice = (
            f"go on past these batches with --run.on_nan rollback, or from the last good checkpoint with {remedy} by "
            f"--run.dir NEW --run.branch {checkpoints[-1]}"
        )
    else:
        advice = f"nothing is saved yet: start again with --run.dir NEW and {remedy}"
    return Diverged(f"{what} at step {step} with learning rate {run.learning_rate(step - 1):.4g}: {advice}")


def roll_back(run: Run, error: Diverged) -> None:
    """Gives the run the weights, optimizer and average of its last checkpoint, and leaves out the batches since. Every rank
    must call it. Raises `error` when the run is to stop, or has done so too often, or has no checkpoint."""
    options, progress = run.config.run, run.progress
    if options.on_nan == "stop":
        raise error
    if progress.rollbacks >= options.rollbacks:
        raise TrainingFailed(f"{error} (went back {progress.rollbacks} times, as often as --run.rollbacks allows)")
    run.writer.wait()
    found = run.communicator.from_first(lambda: load_newest(run.directory.checkpoints))
    if found is None:
        raise error
    path, state, _ = found
    run.state.load_state_dict({**state, "progress": None, "improvement": None, "recent": {"means": []}})
    run.evaluator.statistics = {}
    progress.rollbacks += 1
    run.loader.load_state_dict({"samples_seen": progress.samples_seen})
    what = str(error).partition(": ")[0]
    run.recorder.trouble(
        "rolled back",
        f"{what}: back to the weights of {path.name}, and on after step {progress.step}, past the batches between "
        f"({progress.rollbacks} of {options.rollbacks} times)",
    )
