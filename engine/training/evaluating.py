"""Evaluations of a run: when they are due, what interrupts them, and what is kept of them."""

import time

from engine.faults.errors import TrainingFailed
from engine.faults.stop_request import Stopped
from engine.training.assembly import Run
from engine.training.finiteness import all_finite


def is_due(run: Run) -> bool:
    """Whether the weights as they are, at the end of an epoch, are to be evaluated."""
    done = run.progress.epoch
    return done == run.config.schedule.epochs or done % run.config.evaluation.every_epochs == 0


def is_left(run: Run) -> bool:
    """Whether the checkpoint that the run goes on from is still to be evaluated. Every rank must call it."""
    step = run.progress.step
    if not (step and run.progress.at_epoch_end and is_due(run)):
        return False
    rows = run.directory.metrics.rows
    return run.communicator.from_first(lambda: not any(r["kind"] == "eval" and r["step"] == step for r in rows()))


def recalibrate(run: Run) -> None:
    """Measures the statistics of the averaged weights anew where the run is to. Raises Stopped when a rank is asked to stop."""
    count = run.config.ema.recalibrate
    if run.average is None or not count:
        return
    # Over the first batches of the first epoch, so that the statistics depend on the weights alone.
    run.loader.set_epoch(0)
    try:
        run.evaluator.recalibrate(run.network, run.average, run.loader, count, lambda: _begin_batch(run))
    finally:
        run.loader.load_state_dict({"samples_seen": run.progress.samples_seen})


def evaluate(run: Run) -> float:
    """Top-1, or mean average precision where images have several labels, in percent, of the averaged weights, or of the weights
    where none are averaged; keeps the best.

    Every rank must call it. Raises Stopped, leaving no trace, when a rank is asked to stop meanwhile.
    """
    evaluator, progress = run.evaluator, run.progress
    run.lock.require_held()
    if not evaluator.statistics:
        recalibrate(run)
    started = time.monotonic()
    run.monitor.pause("evaluating")
    with evaluator.standing_in(run.network, run.average):
        result, findings = evaluator.evaluate(run.network.num_classes, begin_batch=lambda: _begin_batch(run))
        run.recorder.substitutions(evaluator.loader)
        accuracy = result.get("map", result["top1"])
        if accuracy > progress.best_top1:
            progress.best_top1 = accuracy
            if run.communicator.is_main:
                _save_best(run)  # once the row is there, so are its weights
    run.writer.wait()
    run.lock.require_held()
    row = {**progress.position(), **result, "seconds": round(time.monotonic() - started, 3)}
    run.monitor.record("eval", **row)
    rate = run.learning_rate(progress.step)
    if run.improvement.add(progress.step, accuracy) and run.learning_rate(progress.step) < rate:
        patience = run.config.schedule.patience
        run.monitor.say(
            f"no better accuracy than {run.improvement.best:.2f}% in {patience} evaluation{'s' if patience > 1 else ''}: "
            f"the learning rate goes down to {run.learning_rate(progress.step):.4g}"
        )
    if run.communicator.is_main and run.config.checkpoint.keep_best:
        run.writer.remove_superfluous()
    run.monitor.keep_findings(findings, evaluator.loader.dataset, row)
    run.hooks.evaluation(run, row, findings)
    return accuracy


def _save_best(run: Run) -> None:
    state = run.network.state_dict()
    if not all_finite(state):
        raise TrainingFailed("the averaged weights are not finite; the checkpoint before them is kept")
    metadata = {**run.state.metadata, "step": run.progress.step, "top1": run.progress.best_top1}
    run.writer.save_best(run.directory.best_weights, state, metadata)


def _begin_batch(run: Run) -> None:
    run.watchdog.begin("evaluating")
    stop, _ = run.communicator.vote((run.stop.requested, False), conclude=False)
    if stop:
        raise Stopped
