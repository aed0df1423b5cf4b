"""The options of what is learned: the network, its optimizer, schedule, loss and averages, and how it is evaluated."""

from dataclasses import dataclass
from typing import Any, Literal

from engine.config.bounds import bounded


@dataclass
class NetworkConfig:
    """The network."""

    name: str = "inception_v4"
    """Which network; inception.list_models() names them."""
    weights: str | None = None
    """Weights to start from (fine-tuning); classifiers of another number of classes start afresh [path]."""
    width: float = bounded(1.0, above=0, most=64)
    """Multiplier of every layer's channels."""
    auxiliary: bool | None = None
    """Train with auxiliary classifiers [null: where the paper does]."""
    batch_norm: bool | None = None
    """Normalise activations; false gives convolutions biases instead [null: the network's default]."""
    dropout: float | None = bounded(None, least=0, below=1)
    """Dropout before the classifier [probability; null: the paper's]."""
    drop_path: float | None = bounded(None, least=0, below=1)
    """Stochastic depth: how often the last residual block leaves out its branches for an image in training, the blocks before it
    less, in proportion to their depth (arXiv 1603.09382); for networks with residual blocks [probability; null: never]."""
    freeze: str | None = None
    """Stages whose weights and batch statistics stay as they are, by their names on the network's page: stem,
    stem..inception_b4, or several, with commas [null: none]."""
    freeze_batch_norm: bool = False
    """Keep every batch normalisation as it is: normalise by the statistics of the weights, not by the batch's."""
    fuse: bool | None = None
    """Run a block's 1x1 convolutions of one input as one: the same function, another speed [null: in training on CPUs,
    and compiled on GPUs]."""
    fused_norm: bool | None = None
    """Batch normalisation and ReLU in one piece in training: the same function, another speed [null: on CPUs,
    and compiled on GPUs]."""
    pad_channels: int | None = bounded(None, least=0, most=64)
    """Pad images with zeros to this many channels: the same function, another speed [channels; null: no]."""


@dataclass
class ScheduleConfig:
    """How long to train, and the learning rate over that time."""

    epochs: int = bounded(100, least=1, most=100_000)
    """Passes over the training split [epochs]."""
    warmup_epochs: float = bounded(0.0, least=0, most=100_000)
    """Linear rise of the learning rate from near zero [epochs]."""
    warmup_steps: int = bounded(0, least=0, most=1_000_000_000)
    """The same, in optimizer steps instead [steps; 0: as warmup_epochs says]."""
    kind: Literal["cosine", "polynomial", "exponential", "step", "plateau", "onecycle", "constant"] = "cosine"
    """Decay after the warm-up: to min_lr along a cosine or a polynomial, continuously or in steps by decay_rate, by decay_rate
    when evaluations no longer improve (plateau), or up and down once with the momentum moving against it (onecycle)."""
    min_lr: float = bounded(0.0, least=0, most=1000)
    """Least learning rate after the warm-up, for a step of lr_batch_size images as optimizer.lr is."""
    cooldown_epochs: float = bounded(0.0, least=0, most=100_000)
    """The last so many of the epochs are trained at min_lr; the decay ends before them [epochs]."""
    decay_rate: float = bounded(0.94, above=0, most=1)
    """Factor of the exponential and step schedules, applied once every decay_epochs, and of plateau."""
    decay_epochs: float = bounded(2.0, above=0, most=100_000)
    """Period of decay_rate [epochs]."""
    power: float = bounded(1.0, above=0, most=100)
    """Power of the polynomial: 1 is a straight line."""
    patience: int = bounded(5, least=1, most=100_000)
    """plateau: after so many evaluations without a better one the rate is lowered, and again after as many more [evaluations]."""
    cycle_momentum: tuple[float, float] = bounded((0.85, 0.95), least=0, below=1)
    """onecycle: the momentum, or first beta, where the rate is highest and at both ends, in place of the optimizer's."""
    stop_after: int = bounded(0, least=0, most=100_000)
    """End the run when so many evaluations in a row brought no better accuracy [evaluations; 0: never]."""


@dataclass
class OptimizerConfig:
    """The optimizer."""

    name: str = "sgd"
    """sgd; rmsprop as TensorFlow defines it (epsilon inside the root, accumulator starts at one); lars or lamb, which
    scale every layer's step to its weights, for very large batches (arXiv 1708.03888, 1904.00962); or another by its name in
    timm's registry: adamw, nadamw, lion, muon, adopt, ... (docs/recipes.md)."""
    lr: float = bounded(0.1, above=0, most=1000)
    """Peak learning rate, for a step of lr_batch_size images; Adam and its kin want about a hundredth of SGD's."""
    lr_batch_size: int = bounded(0, least=0, most=2**24)
    """The learning rate grows in proportion to the global batch over this many images [images; 0: does not grow]."""
    momentum: float | None = bounded(None, least=0, below=1)
    """Momentum, where the optimizer has one [null: 0.9]."""
    nesterov: bool | None = None
    """Nesterov's form of momentum, where the optimizer knows it [null: true for sgd and lars, else timm's]."""
    decay: float | None = bounded(None, least=0, below=1)
    """Decay of the mean of squared gradients, of RMSprop in its forms [null: 0.9]."""
    betas: tuple[float, ...] | None = bounded(None, least=0, below=1)
    """Decays of the means of gradients and squared gradients, where the optimizer has them, as [0.9, 0.999]; adan has three
    [null: timm's; of lamb 0.9 and 0.999]."""
    epsilon: float | None = bounded(None, above=0, most=1000)
    """Added to the mean of squared gradients (RMSprop) or to its root (Adam and its kin) [null: 1.0 for rmsprop, 1e-6 for
    lamb, else timm's]."""
    weight_decay: float = bounded(4e-5, least=0, most=1)
    """Decay of convolution and linear weights, not of biases or batch normalisation."""
    head_lr: float | None = bounded(None, above=0, most=1000)
    """Peak learning rate of the classifier and the auxiliary heads, where theirs is another [null: lr]."""
    layer_decay: float = bounded(1.0, above=0, most=1)
    """Layer-wise decay of the learning rate: the last stage before the classifier learns at so much of it, each stage before
    at so much of the next one's (arXiv 1801.06146, section 3.2) [factor; 1: all alike]."""
    clip_norm: float | None = bounded(None, above=0, most=1_000_000_000)
    """Largest norm of the gradient; longer ones are scaled down [null: never]."""

    def in_effect(self) -> dict[str, Any]:
        """The options that not every optimizer has, by name: as given, else the default; None for what this one does not read
        or what timm decides."""
        given = {name: getattr(self, name) for name in ("momentum", "nesterov", "decay", "betas", "epsilon")}
        if self.name not in OWN_OPTIMIZERS:
            return given
        own = OWN_OPTIMIZERS[self.name]
        if self.name == "lamb" and self.momentum is not None:  # its first beta by another name
            own = own | {"betas": (self.momentum, 0.999)}
        return {name: own.get(name) if value is None or name not in own else value for name, value in given.items()}


# The optimizers that do not come from timm's registry under the same name, and the defaults of what they read.
OWN_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "rmsprop": {"momentum": 0.9, "decay": 0.9, "epsilon": 1.0},
    "lars": {"momentum": 0.9, "nesterov": True},
    "lamb": {"betas": (0.9, 0.999), "epsilon": 1e-6},
}


@dataclass
class LossConfig:
    """The loss."""

    name: Literal["cross_entropy", "bce"] = "cross_entropy"
    """Cross-entropy over the classes, or binary cross-entropy of each class by itself, which several labels an image need (mean
    over images and classes)."""
    class_weights: str | None = None
    """Weight of each class in the loss: balanced (images over classes and images of the class, so that their mean over the
    images is 1), or a JSON file of class names and weights [path; null: all 1]."""
    label_smoothing: float = bounded(0.0, least=0, below=1)
    """Probability mass spread evenly over the classes (Inception-v3 paper, section 7)."""
    auxiliary_weight: float | None = bounded(None, least=0, most=100)
    """Weight of each auxiliary classifier's loss [null: the paper's]."""


@dataclass
class DistillationConfig:
    """Learning from another network's answers beside the labels (arXiv 1503.02531)."""

    teacher: str | None = None
    """Weights of the teacher, as evaluate.py takes them: it sees the training images in its own size, mean and deviation
    [path; null: none]."""
    temperature: float = bounded(2.0, above=0, most=100)
    """By what the logits of both are divided before they are compared."""
    weight: float = bounded(0.5, least=0, most=1)
    """Share of the loss that comes from the teacher; the labels have the rest."""


@dataclass
class EmaConfig:
    """Exponential moving average of the weights, which evaluation and export then use."""

    decay: float = bounded(0.0, least=0, below=1)
    """Decay per step [0: no average, unless half_life is given]."""
    half_life: float = bounded(0.0, least=0, most=1e12)
    """Instead of decay: half of the average comes from the weights of the last so many images, whatever the global batch
    [images; 0: as decay says]."""
    recalibrate: int = bounded(0, least=0, most=1_000_000)
    """Measure batch normalisation's statistics anew for the averaged weights before evaluation [batches a rank; 0: no]."""

    @property
    def averages(self) -> bool:
        """Whether the weights are averaged at all."""
        return self.decay > 0 or self.half_life > 0

    def decay_of_step(self, global_batch: int) -> float:
        """The decay of a step of `global_batch` images, on whatever ranks and micro-batches."""
        return 0.5 ** (global_batch / self.half_life) if self.half_life else self.decay


@dataclass
class EvaluationConfig:
    """Evaluation on the val split."""

    every_epochs: int = bounded(1, least=1, most=100_000)
    """How often [epochs]; the last epoch always is evaluated."""
    batch_size: int = bounded(0, least=0, most=65536)
    """Images in a batch of one rank [images; 0: as in training]."""
    resolution: int = bounded(0, least=0, most=8192)
    """Side of the images [pixels; 0: as at the end of training]. Larger than in training often scores better, since
    random crops show objects larger (arXiv 1906.06423)."""
    flip: bool = False
    """Average the prediction with that of the mirrored image."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How images are resized, always antialiased."""
    crop_fraction: float | None = bounded(None, above=0, most=1)
    """Side of the centred square that is cut out and resized [fraction of the shorter side; null: the network's]."""
    resize: int = bounded(0, least=0, most=16384)
    """Resize the whole image first, its shorter side to this, and cut the square out then [pixels; 0: cut first]."""
