"""Learning rates and image sizes as functions of the step and the epoch alone: nothing here has a position to save."""

import math

from engine.config.options import OptimizerConfig, ProgressiveConfig, ScheduleConfig


def learning_rate(
    step: int, steps_per_epoch: int, global_batch_size: int, schedule: ScheduleConfig, optimizer: OptimizerConfig
) -> float:
    """The learning rate of optimizer step `step`, counted from 0 over the whole run.

    Linear scaling and warm-up as in arXiv 1706.02677, section 2; the cosine as in arXiv 1608.03983 without restarts.
    """
    peak = peak_learning_rate(global_batch_size, optimizer)
    epoch = step / steps_per_epoch
    if epoch < schedule.warmup_epochs:
        return peak * (step + 1) / (schedule.warmup_epochs * steps_per_epoch + 1)
    if schedule.kind == "cosine":
        progress = (epoch - schedule.warmup_epochs) / max(schedule.epochs - schedule.warmup_epochs, 1e-9)
        return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    periods = epoch / schedule.decay_epochs
    if schedule.kind == "exponential":
        return peak * schedule.decay_rate**periods
    if schedule.kind == "step":
        return peak * schedule.decay_rate ** math.floor(periods)
    return peak


def peak_learning_rate(global_batch_size: int, optimizer: OptimizerConfig) -> float:
    """The learning rate after the warm-up, grown with the global batch where `lr_batch_size` says so."""
    return optimizer.lr * (global_batch_size / optimizer.lr_batch_size if optimizer.lr_batch_size else 1.0)


def resolution_at(epoch: int, full: int, options: ProgressiveConfig) -> int:
    """Side of the training images in `epoch`, counted from 0, in pixels: from `start` to `full` in a straight line."""
    if not options.start or epoch >= options.end_epoch:
        return full
    if epoch <= options.begin_epoch:
        return options.start
    share = (epoch - options.begin_epoch) / (options.end_epoch - options.begin_epoch)
    between = options.start + share * (full - options.start)
    return min(max(math.floor(between / options.multiple + 0.5) * options.multiple, options.start), full)
