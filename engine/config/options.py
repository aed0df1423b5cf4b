"""Every option of a run, in one tree of dataclasses: recipes are YAML of it, the command line overrides any leaf.

The docstring under a field is the text that `--help` shows, with its unit in brackets; a number stands with its bounds. To
add an option, add a field, here or in `data_options.py` or `learning_options.py`, which hold branches of the tree;
`command_line.py` reads them and `checks.py` checks them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

import yaml

from engine.config.bounds import bounded
from engine.config.data_options import AugmentationConfig, DataConfig, ProgressiveConfig
from engine.config.learning_options import (
    DistillationConfig,
    EmaConfig,
    EvaluationConfig,
    LossConfig,
    NetworkConfig,
    OptimizerConfig,
    ScheduleConfig,
)


class ConfigError(ValueError):
    """An option that does not exist, has the wrong type, or contradicts another; the message is one line."""


@dataclass
class RunConfig:
    """The run."""

    dir: str = ""
    """Run directory [path; empty: runs/<recipe> in the current directory]."""
    seed: int = bounded(0, least=0, most=2**63 - 1)
    """Seed of initialisation, data order, augmentation and dropout."""
    resume: str = "auto"
    """Where to start: auto (newest complete checkpoint of the run directory, if any), never, or a checkpoint file; in its own
    directory the run goes back to it, and what lies above is set aside in checkpoints/superseded."""
    branch: str = ""
    """Checkpoint that a new run begins with: its weights, optimizer and average, under other options [path; empty: none]."""
    target_top1: float | None = bounded(None, above=0, most=100)
    """End the run when evaluation reaches this top-1 accuracy [percent]."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """When a loss, a gradient or a weight is no finite number: end the run, or go on with the weights of the last checkpoint
    past the batches since."""
    rollbacks: int = bounded(3, least=1, most=10_000)
    """With on_nan rollback, how often at most [times]."""
    deterministic: bool = False
    """Use deterministic kernels on GPUs, at some cost in speed (on CPUs they always are)."""


@dataclass
class CompileConfig:
    """torch.compile of the training and evaluation steps."""

    enabled: bool = False
    """Compile."""
    scope: Literal["step", "block"] = "step"
    """One graph of normalisation, network and loss, or one for each stage of the network (compiles faster)."""
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """torch.compile's mode; reduce-overhead and max-autotune use CUDA graphs."""
    combo_kernels: bool = False
    """Launch small kernels that do not wait for one another as one, on a GPU: the same numbers, fewer launches."""
    cache: str = ""
    """Directory of compiled code, from which a restart starts sooner [path; empty: compile in the user's cache]."""


@dataclass
class StrategyConfig:
    """How the ranks work together."""

    name: Literal["auto", "single", "ddp", "deepspeed"] = "auto"
    """One process, DistributedDataParallel, DeepSpeed, or whichever of the first two the launcher calls for."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed: share out nothing (0), the optimizer's state (1), gradients too (2); weights (3) are refused."""
    deepspeed_config: str | None = None
    """DeepSpeed: JSON file of settings merged over those made from these options [path]."""
    compress_gradients: bool = False
    """Exchange gradients in bf16, half the bytes; their sums are rounded to 8 bits of mantissa."""
    sync_batchnorm: bool = False
    """Normalise over the batch of all ranks instead of each rank's own."""
    timeout: float = bounded(600.0, above=0, most=2_592_000)
    """How long a rank waits for the others before the run fails [seconds]."""


@dataclass
class CheckpointConfig:
    """Checkpoints: when they are written, and which stay. One is always written when the run ends or is asked to stop."""

    every_epochs: int = bounded(1, least=0, most=100_000)
    """Write one at the end of every so many epochs [epochs; 0: only of the last]."""
    every_steps: int = bounded(0, least=0, most=1_000_000_000)
    """Also write one after every so many steps [steps; 0: no]."""
    every_seconds: float | None = bounded(600.0, least=0, most=31_536_000)
    """Also write one, within an epoch too, when the last is this old [seconds; null: no]."""
    keep: int = bounded(2, least=1, most=100_000)
    """Newest checkpoints kept, beside the best weights [files]."""
    keep_best: int = bounded(0, least=0, most=100_000)
    """Also keep those with the highest top-1 accuracy; every epoch that is evaluated is then saved [files]."""
    keep_every_epochs: int = bounded(0, least=0, most=100_000)
    """Also write and keep for good one at the end of every so many epochs [epochs; 0: none]."""


@dataclass
class MonitorConfig:
    """What is recorded while training."""

    every_steps: int = bounded(20, least=1, most=1_000_000)
    """Steps in a row of metrics.jsonl and of the trackers [steps]."""
    trackers: list[Literal["tensorboard", "csv", "wandb", "mlflow", "trackio"]] = field(
        default_factory=lambda: ["tensorboard"]  # type: ignore[list-item]
    )
    """Where curves go beside metrics.jsonl, each through its own library [names, one after the other; []: nowhere]."""
    offline: bool = False
    """Keep what trackers are told on this machine."""


@dataclass
class ProfileConfig:
    """A torch.profiler trace in the run directory, for Perfetto or chrome://tracing."""

    steps: int = bounded(0, least=0, most=100_000)
    """Steps recorded [steps; 0: no trace]."""
    wait: int = bounded(10, least=0, most=1_000_000_000)
    """Steps of this start before them, in which compilation and warm-up happen [steps]."""


@dataclass
class Config:
    """A whole run."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    progressive: ProgressiveConfig = field(default_factory=ProgressiveConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What computes; auto: the GPUs, or the CPU on a machine where nothing asks for a GPU."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass; auto: bf16 where the device computes it natively, else fp32; fp16 scales
    the loss."""
    hooks: str = ""
    """Hooks of your own that act during the run [module:Class, several separated by commas]."""
    compile: CompileConfig = field(default_factory=CompileConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain dictionaries, numbers and strings, ready for YAML and for a checkpoint."""
        return yaml.safe_load(yaml.safe_dump(_plain(asdict(self))))


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All options of a dataclass tree as (dotted name, value)."""
    for entry in fields(tree):
        value = getattr(tree, entry.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All options of nested dicts as (dotted name, value)."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value
