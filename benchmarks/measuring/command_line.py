"""What the scripts' command lines have in common: options of the same names, and complaints of one line."""

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.measuring.machine import RESULTS
from engine.config.options import ConfigError
from pipelines.support import entry_point

PRECISIONS = ("auto", "fp32", "bf16")
MODES = ("eager", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


class BenchmarkError(ConfigError):
    """Bad usage or bad input of a benchmark; the message is one line."""


class Parser(entry_point.Parser):
    """A parser with `--output` and those of the `COMMON` options that get a default here. Its complaint is one line."""

    completes = False  # no command of its own, whose options a shell could know

    def __init__(self, description: str, **defaults: Any) -> None:
        super().__init__(
            description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False,
            conflict_handler="resolve",
        )  # fmt: skip
        for name, default in {**defaults, "output": RESULTS}.items():
            self.add_argument(f"--{name.replace('_', '-')}", default=default, **COMMON[name])

    def error(self, message: str) -> NoReturn:
        print(f"error: {self.with_meant(message)} (--help lists the options)", file=sys.stderr)
        raise SystemExit(2)


class _TrainingOptions(argparse.Action):
    """Collects KEY=VALUE pairs as arguments of engine/train.py."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        for pair in values:
            if "=" not in pair:
                parser.error(f"{option} takes KEY=VALUE, not {pair!r}")
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *as_arguments(p.split("=", 1) for p in values)])


def as_arguments(settings: Mapping[str, Any] | Iterable[Iterable[Any]]) -> list[str]:
    """Options of the training and their values as its command line has them."""
    pairs = settings.items() if isinstance(settings, Mapping) else settings
    return [text for key, value in pairs for text in (f"--{key}", str(value))]


def told(options: Any, *names: str) -> list[str]:
    """Options of these names as a process is told them."""
    return as_arguments({name.replace("_", "-"): getattr(options, name) for name in names})


def synthetic(folder: Any, network: str, batch_size: int, ranks: int = 1) -> list[str]:
    """Arguments of a training in `folder` on synthetic batches of so many images a rank."""
    data = {"data.backend": "synthetic", "data.batch_size": batch_size, "data.global_batch_size": batch_size * ranks}
    return as_arguments({"run.dir": folder, "network.name": network} | data)


def compiled(mode: str) -> dict[str, str]:
    """Options of the training that compile its step in a mode of torch.compile, or leave it eager."""
    return {"compile.enabled": "false"} if mode == "eager" else {"compile.enabled": "true", "compile.mode": mode}


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


COMMON: dict[str, dict[str, Any]] = {
    "network": {"help": "name of the network"},
    "networks": {"nargs": "+", "metavar": "NAME", "help": "names of networks"},
    "batch_size": {"type": positive, "help": "images a step and rank"},
    "batch_sizes": {"type": positive, "nargs": "+", "metavar": "IMAGES", "help": "images a step and rank"},
    "resolution": {"type": int, "help": "pixels a side; 0 or none: the network's own"},
    "precision": {"choices": PRECISIONS, "help": "of the training step"},
    "compile": {"nargs": "+", "choices": MODES, "help": "modes of torch.compile"},
    "workers": {"type": int, "help": "decoding threads or processes; 0: the cores of a rank"},
    "data": {"type": Path, "help": "dataset with class folders; none: made photos, 500 x 375"},
    "images": {"type": positive, "help": "photos"},
    "quality": {"type": positive, "help": "of the JPEGs that are made here; 85 gives 46 kB, 97 gives 112 kB"},
    "windows": {"type": positive, "help": "measured windows of each"},
    "seconds": {"type": float, "help": "of a window, about"},
    "budget": {"type": float, "help": "most seconds for all of it; inf: no limit"},
    "steps": {"type": positive, "help": "steps in a window"},
    "seeds": {"type": positive, "help": "trainings of each kind"},
    "set": {"nargs": "+", "action": _TrainingOptions, "metavar": "KEY=VALUE",
            "help": "further options of the training, such as data.prefetch=4"},
    "output": {"type": Path, "help": "folder for the JSON file and the picture"},
}  # fmt: skip
