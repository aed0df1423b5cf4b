"""Values that have the right type and make no sense: out of bounds, or in contradiction to each other."""

from collections.abc import Mapping
from typing import Any

from engine.config.bounds import Bounds, bounds_of
from engine.config.optimizer_registry import check_optimizer, options_read
from engine.config.options import Config, ConfigError, leaves
from inception.registry import DESIGNS


def check_values(config: Config) -> None:
    """Raises ConfigError for the first value that makes no sense, naming its option."""
    require_within(dict(leaves(config)), dict(bounds_of(config)))
    _check_start(config)
    _check_learning(config)
    check_optimizer(config.optimizer)
    _check_ranges(config)
    _check_schedule(config)
    _check_growing(config)
    _check_batch(config)
    if config.precision == "fp16" and config.strategy.name == "deepspeed":
        raise ConfigError(
            "option --precision fp16 does not go with --strategy.name deepspeed, whose own fp16 would cast weights and batch "
            "statistics too: use --strategy.name ddp, or --precision bf16 where the device has it"
        )
    if config.ema.decay and config.ema.half_life:
        raise ConfigError(
            f"options --ema.decay {config.ema.decay:g} and --ema.half_life {config.ema.half_life:g} both say how fast the "
            "average follows the weights: leave out one, or set it to 0 where a recipe gives it"
        )
    if config.ema.recalibrate and config.network.freeze_batch_norm:
        raise ConfigError(
            f"option --ema.recalibrate {config.ema.recalibrate} measures the statistics of batch normalisation anew, which "
            "--network.freeze_batch_norm keeps: leave out one of them"
        )
    if config.ema.recalibrate and config.network.batch_norm is False:
        raise ConfigError(
            f"option --ema.recalibrate {config.ema.recalibrate} measures statistics of batch normalisation, which "
            "--network.batch_norm false leaves out: set it to 0"
        )


def require_within(values: Mapping[str, Any], bounds: Mapping[str, Bounds]) -> None:
    """Raises ConfigError for the first option, by name, whose number in `values` its `bounds` do not hold."""
    for key, limits in bounds.items():
        value = values[key]
        if not all(limits.hold(number) for number in _numbers(value)):
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(f"option --{key} must be {limits}, not {shown}")


def _numbers(value: Any) -> list[float]:
    entries = value if isinstance(value, tuple) else (value,)
    return [entry for entry in entries if isinstance(entry, int | float)]


def _check_learning(config: Config) -> None:
    if config.data.sampler == "balanced" and config.data.shuffle != "full":
        raise ConfigError(
            f"options --data.sampler balanced and --data.shuffle {config.data.shuffle} both decide the order of an epoch: "
            "leave out one of them"
        )
    if config.distillation.teacher and config.loss.name != "cross_entropy":
        raise ConfigError(
            f"option --distillation.teacher compares distributions over the classes, which --loss.name {config.loss.name} has "
            "not: leave out one of them"
        )


def _check_start(config: Config) -> None:
    if config.run.branch and config.run.resume not in ("auto", "never"):
        raise ConfigError(
            "options --run.resume FILE and --run.branch FILE exclude each other: the first continues a run, the second "
            "begins another"
        )


def _check_ranges(config: Config) -> None:
    for key, (low, high) in (("crop_scale", config.data.crop_scale), ("crop_ratio", config.data.crop_ratio)):
        if low > high:
            raise ConfigError(f"option --data.{key} must be two numbers, the smaller first, not [{low}, {high}]")


def _check_schedule(config: Config) -> None:
    schedule = config.schedule
    if schedule.warmup_epochs > schedule.epochs:
        raise ConfigError(
            f"option --schedule.warmup_epochs must not exceed the run's --schedule.epochs {schedule.epochs}, "
            f"not be {schedule.warmup_epochs:g}"
        )
    if schedule.warmup_epochs + schedule.cooldown_epochs > schedule.epochs:
        raise ConfigError(
            f"options --schedule.warmup_epochs {schedule.warmup_epochs:g} and --schedule.cooldown_epochs "
            f"{schedule.cooldown_epochs:g} take more than the run's --schedule.epochs {schedule.epochs}: shorten one"
        )
    if schedule.warmup_epochs and schedule.warmup_steps:
        raise ConfigError(
            f"options --schedule.warmup_epochs {schedule.warmup_epochs:g} and --schedule.warmup_steps {schedule.warmup_steps} "
            "both say how long the rate rises: leave out one, or set it to 0 where a recipe gives it"
        )
    if schedule.min_lr > config.optimizer.lr:
        raise ConfigError(
            f"option --schedule.min_lr must not exceed the peak, --optimizer.lr {config.optimizer.lr:g}, not be "
            f"{schedule.min_lr:g}"
        )
    if schedule.cooldown_epochs and not schedule.min_lr:
        raise ConfigError(
            f"option --schedule.cooldown_epochs {schedule.cooldown_epochs:g} trains at --schedule.min_lr, which is 0: nothing "
            "would be learned; give a min_lr"
        )
    _check_cycle(config)


def _check_cycle(config: Config) -> None:
    if config.schedule.kind != "onecycle":
        return
    low, high = config.schedule.cycle_momentum
    if low > high:
        raise ConfigError(
            f"option --schedule.cycle_momentum must be two numbers, the smaller first, not [{low}, {high}]"
        )
    # adafactor's first beta is not among its groups' betas.
    if "adafactor" in config.optimizer.name or not {"momentum", "betas"} & set(options_read(config.optimizer.name)):
        raise ConfigError(
            f"option --schedule.kind onecycle moves the momentum too, which {config.optimizer.name} has not, or not so "
            "that it moves: use cosine with a warm-up"
        )


def _check_growing(config: Config) -> None:
    schedule, growing = config.schedule, config.progressive
    if not growing.start:
        return
    if not growing.begin_epoch <= growing.end_epoch <= schedule.epochs:
        raise ConfigError(
            "option --progressive.end_epoch must lie between --progressive.begin_epoch and --schedule.epochs, "
            f"not at {growing.end_epoch}"
        )
    name = config.network.name
    full = config.data.resolution or (DESIGNS[name]().input_size if name in DESIGNS else growing.start)
    if growing.start > full:
        raise ConfigError(
            f"option --progressive.start must not exceed the full size of {full} pixels, not be {growing.start}"
        )


def _check_batch(config: Config) -> None:
    if config.data.batch_size == "auto" and config.data.global_batch_size is None:
        raise ConfigError(
            "option --data.batch_size auto needs --data.global_batch_size, or the device's memory would decide how the "
            "network is trained"
        )
