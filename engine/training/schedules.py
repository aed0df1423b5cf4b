"""Learning rates, momenta and image sizes as functions of the step and the epoch: nothing here has a position to save. What
the plateau schedule goes by is counted in `improvement.py`.
"""

import math

from engine.config.options import ConfigError, OptimizerConfig, ProgressiveConfig, ScheduleConfig

# onecycle: the first learning rate and the last as parts of the peak, and the share of the steps in which the rate rises
# where no warm-up is given. torch.optim.lr_scheduler.OneCycleLR has the same.
_FIRST, _LAST, _RISING = 1 / 25, 1 / 250_000, 0.3


def learning_rate(
    step: int, steps_per_epoch: int, global_batch_size: int, schedule: ScheduleConfig, optimizer: OptimizerConfig,
    lowered: int = 0,
) -> float:  # fmt: skip
    """The learning rate of optimizer step `step`, counted from 0 over the whole run; `lowered`: how often evaluations that no
    longer improved have had the plateau schedule lower it.

    Linear scaling and warm-up as in arXiv 1706.02677, section 2; the cosine as in arXiv 1608.03983 without restarts; one cycle
    as in arXiv 1708.07120, falling along cosines.
    """
    peak = peak_learning_rate(global_batch_size, optimizer)
    least = schedule.min_lr * _growth(global_batch_size, optimizer)
    epoch, end = step / steps_per_epoch, schedule.epochs - schedule.cooldown_epochs
    warmup = warmup_epochs(schedule, steps_per_epoch)
    if schedule.cooldown_epochs and epoch >= end:
        return least
    if schedule.kind == "onecycle":
        rising, height = _one_cycle(epoch, warmup, end)
        low = peak * _FIRST if rising else max(peak * _LAST, least)
        return low + (peak - low) * height
    if epoch < warmup:
        return peak * (step + 1) / (warmup * steps_per_epoch + 1)
    progress = min((epoch - warmup) / max(end - warmup, 1e-9), 1.0)
    if schedule.kind == "cosine":
        return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.kind == "polynomial":
        return least + (peak - least) * (1 - progress) ** schedule.power
    periods = epoch / schedule.decay_epochs
    times = {"exponential": periods, "step": math.floor(periods), "plateau": lowered}.get(schedule.kind, 0)
    return max(peak * schedule.decay_rate**times, least)


def momentum(step: int, steps_per_epoch: int, schedule: ScheduleConfig) -> float | None:
    """The momentum of step `step` under onecycle, low where the rate is high; None where the optimizer's own stays."""
    if schedule.kind != "onecycle":
        return None
    low, high = schedule.cycle_momentum
    end = schedule.epochs - schedule.cooldown_epochs
    _, height = _one_cycle(step / steps_per_epoch, warmup_epochs(schedule, steps_per_epoch), end)
    return high - (high - low) * height


def _one_cycle(epoch: float, warmup: float, end: float) -> tuple[bool, float]:
    """Whether the rate still rises in `epoch`, and how high it is: 0 at both ends, 1 where it is highest."""
    top = warmup or _RISING * end
    share = epoch / top if epoch < top else 1 - min((epoch - top) / max(end - top, 1e-9), 1.0)
    return epoch < top, 0.5 * (1 - math.cos(math.pi * share))


def warmup_epochs(schedule: ScheduleConfig, steps_per_epoch: int) -> float:
    """The length of the warm-up, however it is given [epochs]."""
    return schedule.warmup_steps / steps_per_epoch if schedule.warmup_steps else schedule.warmup_epochs


def require_room(schedule: ScheduleConfig, steps_per_epoch: int) -> None:
    """Raises ConfigError when the warm-up does not end before the run, or before its cool-down."""
    end = (schedule.epochs - schedule.cooldown_epochs) * steps_per_epoch
    if schedule.warmup_steps > end:
        before = " before the cool-down" if schedule.cooldown_epochs else ""
        raise ConfigError(
            f"option --schedule.warmup_steps must not exceed the run's {math.floor(end):,} steps{before}, not be "
            f"{schedule.warmup_steps:,}"
        )


def peak_learning_rate(global_batch_size: int, optimizer: OptimizerConfig) -> float:
    """The learning rate after the warm-up, grown with the global batch where `lr_batch_size` says so."""
    return optimizer.lr * _growth(global_batch_size, optimizer)


def _growth(global_batch_size: int, optimizer: OptimizerConfig) -> float:
    return global_batch_size / optimizer.lr_batch_size if optimizer.lr_batch_size else 1.0


def resolution_at(epoch: int, full: int, options: ProgressiveConfig) -> int:
    """Side of the training images in `epoch`, counted from 0, in pixels: from `start` to `full` in a straight line."""
    if not options.start or epoch >= options.end_epoch:
        return full
    if epoch <= options.begin_epoch:
        return options.start
    share = (epoch - options.begin_epoch) / (options.end_epoch - options.begin_epoch)
    between = options.start + share * (full - options.start)
    return min(max(math.floor(between / options.multiple + 0.5) * options.multiple, options.start), full)
