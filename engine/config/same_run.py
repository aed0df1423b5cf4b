"""What makes two runs the same: the options that decide what is learned."""

from pathlib import Path

from engine.config.options import Config, ConfigError, leaves

# What may differ between the parts of one run: how fast and where it runs, not what it computes.
_FREE = (
    "run.dir", "run.resume", "run.target_top1", "hooks", "device", "data.path", "data.train", "data.val",
    "data.classes", "data.backend", "data.batch_size", "data.workers", "data.prefetch", "data.on_error", "network.weights",
    "evaluation.batch_size", "compile.enabled", "compile.mode", "compile.scope", "compile.cache", "strategy.name",
    "strategy.zero_stage", "strategy.deepspeed_config", "strategy.timeout", "checkpoint.every_seconds",
    "checkpoint.keep", "monitor.every_steps", "profile.steps", "profile.wait",
)  # fmt: skip


def check_same_run(config: Config, saved: Config, where: Path) -> None:
    """Raises ConfigError naming the first option whose change would make `config` another run than `saved`."""
    before = dict(leaves(saved))
    for key, value in leaves(config):
        if key not in _FREE and not key.startswith(("data.dali.", "data.ffcv.")) and value != before[key]:
            raise ConfigError(
                f"{where} holds a run with --{key} {before[key]}, not {value}: choose another --run.dir for a new run, "
                f"or drop the option to continue this one"
            )
