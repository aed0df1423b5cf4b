"""Every option of a run, in one tree of dataclasses: recipes are YAML of it, the command line overrides any leaf.

The docstring under a field is the text that `--help` shows, with its unit in brackets. To add an option, add a field;
`engine/config/command_line.py` reads and checks them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

import yaml


class ConfigError(ValueError):
    """An option that does not exist, has the wrong type, or contradicts another; the message is one line."""


@dataclass
class RunConfig:
    """The run."""

    dir: str = ""
    """Run directory [path; empty: runs/<recipe> in the current directory]."""
    seed: int = 0
    """Seed of initialisation, data order, augmentation and dropout."""
    resume: str = "auto"
    """Where to start: auto (newest complete checkpoint of the run directory, if any), never, or a checkpoint file."""
    target_top1: float | None = None
    """End the run when evaluation reaches this top-1 accuracy [percent]."""
    deterministic: bool = False
    """Use deterministic kernels on GPUs, at some cost in speed (on CPUs they always are)."""


@dataclass
class DaliConfig:
    """DALI on a GPU; on a CPU none of this matters."""

    hw_decoder_load: float = 0.9
    """Share of a batch that the GPU's JPEG engine decodes; CUDA cores decode the rest [fraction]."""
    width_hint: int = 0
    """Width that decoder memory is set aside for [pixels; 0: the largest of a sample of the dataset]."""
    height_hint: int = 0
    """Height that decoder memory is set aside for [pixels; 0: as for the width]."""
    device_padding: int = 16777216
    """GPU memory set aside for a decoder thread [bytes]."""
    host_padding: int = 8388608
    """Host memory set aside for a decoder thread [bytes]."""
    affinity: bool = True
    """Bind DALI's threads to the cores nearest to the GPU."""


@dataclass
class FfcvConfig:
    """FFCV."""

    cache: Literal["os", "process"] = "os"
    """Read through the system's page cache, which all ranks share, or into each rank's own memory."""


@dataclass
class DataConfig:
    """The data and how it is read."""

    path: str = ""
    """Dataset with a train and a val split, class folders, tar shards or FFCV files [path; empty: the embedded sample]."""
    backend: Literal["auto", "native", "dali", "ffcv", "synthetic"] = "auto"
    """What decodes the images; auto: the fastest on this machine."""
    batch_size: int | Literal["auto"] = 32
    """Images in a batch of one rank [images; auto: as many as fit, of a global_batch_size that must be given]."""
    global_batch_size: int | None = None
    """Images in an optimizer step, over all ranks; gradients accumulate to reach it [images; null: batch_size x ranks]."""
    workers: int = 0
    """Decoding threads of a rank [threads; 0: the cores of the machine shared among its ranks]."""
    prefetch: int = 2
    """Batches prepared ahead [batches]."""
    on_error: Literal["raise", "skip"] = "raise"
    """What an unreadable image does: end the run naming it, or be replaced by the next good one and reported."""
    quarantine: str | None = None
    """File that lists images to leave out, one a line [path]."""
    shuffle: Literal["full", "block", "none"] = "full"
    """Order of an epoch: any sample anywhere, windows of neighbouring samples for slow storage, or as stored."""
    resolution: int = 0
    """Side of the square images given to the network [pixels; 0: the network's own size]."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of a training crop [fraction of the image, smallest and largest]."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio of a training crop [width / height, smallest and largest]."""
    flip: float = 0.5
    """How often a training image is mirrored [probability]."""
    dali: DaliConfig = field(default_factory=DaliConfig)
    ffcv: FfcvConfig = field(default_factory=FfcvConfig)


@dataclass
class AugmentationConfig:
    """What else is done to training images, decided by the plan and carried out inside the training step."""

    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    """Operations drawn from a fixed list for every image (arXiv 1909.13719, 2103.10158)."""
    operations: int = 2
    """RandAugment's operations on an image, one after the other."""
    magnitude: int = 9
    """RandAugment's strength [0 to 30]."""
    colour: float = 0.0
    """Strength of the Inception networks' colour distortion [0 to 1; 1: their own; 0: none]."""
    mixup: float = 0.0
    """Blend pairs of images (arXiv 1710.09412) [alpha of the Beta distribution, 0 to 1; 0: never]."""
    cutmix: float = 0.0
    """Paste a box of another image (arXiv 1905.04899) [alpha, 0 to 1; 0: never]; with mixup, one or the other."""
    erasing: float = 0.0
    """How often a box is erased (arXiv 1708.04896) [probability]."""


@dataclass
class ProgressiveConfig:
    """Progressive resizing: small images at first, the full size at the end (arXiv 2104.00298, section 4)."""

    start: int = 0
    """Side of the training images at first [pixels; 0: the full size from the beginning]."""
    begin_epoch: int = 0
    """Last epoch of that size [epochs]."""
    end_epoch: int = 0
    """First epoch of the full size [epochs]."""
    multiple: int = 32
    """Sizes in between are multiples of this [pixels]."""


@dataclass
class NetworkConfig:
    """The network."""

    name: str = "inception_v4"
    """Which network; inception.list_models() names them."""
    weights: str | None = None
    """Weights to start from (fine-tuning); classifiers of another number of classes start afresh [path]."""
    width: float = 1.0
    """Multiplier of every layer's channels."""
    auxiliary: bool | None = None
    """Train with auxiliary classifiers [null: where the paper does]."""
    batch_norm: bool | None = None
    """Normalise activations; false gives convolutions biases instead [null: the network's default]."""
    dropout: float | None = None
    """Dropout before the classifier [probability; null: the paper's]."""
    fuse: bool | None = None
    """Run a block's 1x1 convolutions of one input as one: the same function, another speed [null: in training on CPUs]."""
    fused_norm: bool | None = None
    """Batch normalisation and ReLU in one piece in training: the same function, another speed [null: on CPUs alone]."""
    pad_channels: int | None = None
    """Pad images with zeros to this many channels: the same function, another speed [channels; null: no]."""


@dataclass
class ScheduleConfig:
    """How long to train, and the learning rate over that time."""

    epochs: int = 100
    """Passes over the training split [epochs]."""
    warmup_epochs: float = 0.0
    """Linear rise of the learning rate from near zero [epochs]."""
    kind: Literal["cosine", "exponential", "step", "constant"] = "cosine"
    """Decay after the warm-up: to zero along a cosine, continuously by decay_rate, or in steps of decay_rate."""
    decay_rate: float = 0.94
    """Factor of the exponential and step schedules, applied once every decay_epochs."""
    decay_epochs: float = 2.0
    """Period of decay_rate [epochs]."""


@dataclass
class OptimizerConfig:
    """The optimizer."""

    name: Literal["sgd", "rmsprop", "lars", "lamb"] = "sgd"
    """SGD; RMSprop as TensorFlow defines it (epsilon inside the root, accumulator starts at one); LARS or LAMB, which
    scale every layer's step to its weights, for very large batches (arXiv 1708.03888, 1904.00962)."""
    lr: float = 0.1
    """Peak learning rate, for a step of lr_batch_size images."""
    lr_batch_size: int = 0
    """The learning rate grows in proportion to the global batch over this many images [images; 0: does not grow]."""
    momentum: float = 0.9
    """Momentum."""
    nesterov: bool = True
    """Nesterov's form of momentum (SGD)."""
    decay: float = 0.9
    """Decay of the mean of squared gradients (RMSprop)."""
    epsilon: float = 1.0
    """Added to the mean of squared gradients (RMSprop)."""
    weight_decay: float = 4e-5
    """Decay of convolution and linear weights, not of biases or batch normalisation."""
    clip_norm: float | None = None
    """Largest norm of the gradient; longer ones are scaled down [null: never]."""


@dataclass
class LossConfig:
    """The loss."""

    label_smoothing: float = 0.0
    """Probability mass spread evenly over the classes (Inception-v3 paper, section 7)."""
    auxiliary_weight: float | None = None
    """Weight of each auxiliary classifier's loss [null: the paper's]."""


@dataclass
class EmaConfig:
    """Exponential moving average of the weights, which evaluation and export then use."""

    decay: float = 0.0
    """Decay per step [0: no average]."""
    recalibrate: int = 0
    """Measure batch normalisation's statistics anew for the averaged weights before evaluation [batches a rank; 0: no]."""


@dataclass
class EvaluationConfig:
    """Evaluation on the val split."""

    every_epochs: int = 1
    """How often [epochs]; the last epoch always is evaluated."""
    batch_size: int = 0
    """Images in a batch of one rank [images; 0: as in training]."""
    resolution: int = 0
    """Side of the images [pixels; 0: as at the end of training]. Larger than in training often scores better, since
    random crops show objects larger (arXiv 1906.06423)."""
    flip: bool = False
    """Average the prediction with that of the mirrored image."""


@dataclass
class CompileConfig:
    """torch.compile of the training and evaluation steps."""

    enabled: bool = False
    """Compile."""
    scope: Literal["step", "block"] = "step"
    """One graph of normalisation, network and loss, or one for each stage of the network (compiles faster)."""
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """torch.compile's mode; reduce-overhead and max-autotune use CUDA graphs."""
    cache: str = ""
    """Directory of compiled code, from which a restart starts sooner [path; empty: ~/.cache/inception/compile]."""


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
    timeout: float = 600.0
    """How long a rank waits for the others before the run fails [seconds]."""


@dataclass
class CheckpointConfig:
    """Checkpoints; one is always written at the end of an epoch that was evaluated."""

    every_seconds: float = 600.0
    """Also write one within an epoch when the last is this old [seconds]."""
    keep: int = 2
    """Newest checkpoints kept, beside the best weights [files]."""


@dataclass
class MonitorConfig:
    """What is recorded while training."""

    every_steps: int = 20
    """Steps in a row of metrics.jsonl and TensorBoard [steps]."""


@dataclass
class ProfileConfig:
    """A torch.profiler trace in the run directory, for Perfetto or chrome://tracing."""

    steps: int = 0
    """Steps recorded [steps; 0: no trace]."""
    wait: int = 10
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
    ema: EmaConfig = field(default_factory=EmaConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward and backward pass; auto: bf16 where the device computes it natively, else fp32."""
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


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value
