"""Training, evaluation, prediction and export of Inception networks. The scripts beside this file are its commands; in
Python, a run is made and trained so:

    from engine import Trainer, assemble, load_config

    config = load_config(["--recipe", "sample", "--schedule.epochs", "4"])
    outcome = Trainer(assemble(config)).fit()
    print(outcome.reason, outcome.best_top1, outcome.weights)

Mistakes in options raise `ConfigError`, whose message is one line. A name is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config.command_line import load_config
    from engine.config.options import Config, ConfigError
    from engine.monitoring.hooks import Hook
    from engine.training.assembly import Run, assemble
    from engine.training.outcome import Outcome
    from engine.training.trainer import Trainer

__all__ = ["Config", "ConfigError", "Hook", "Outcome", "Run", "Trainer", "assemble", "load_config"]

_HOMES = {
    "config.command_line": ("load_config",),
    "config.options": ("Config", "ConfigError"),
    "monitoring.hooks": ("Hook",),
    "training.assembly": ("Run", "assemble"),
    "training.outcome": ("Outcome",),
    "training.trainer": ("Trainer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    value = getattr(import_module(f"engine.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
