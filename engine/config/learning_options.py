"""The options of what is learned: the network, its optimizer, schedule, loss and averages, and how it is evaluated."""

from dataclasses import dataclass
from typing import Literal

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
    kind: Literal["cosine", "exponential", "step", "constant"] = "cosine"
    """Decay after the warm-up: to zero along a cosine, continuously by decay_rate, or in steps of decay_rate."""
    decay_rate: float = bounded(0.94, above=0, most=1)
    """Factor of the exponential and step schedules, applied once every decay_epochs."""
    decay_epochs: float = bounded(2.0, above=0, most=100_000)
    """Period of decay_rate [epochs]."""


@dataclass
class OptimizerConfig:
    """The optimizer."""

    name: Literal["sgd", "rmsprop", "lars", "lamb"] = "sgd"
    """SGD; RMSprop as TensorFlow defines it (epsilon inside the root, accumulator starts at one); LARS or LAMB, which
    scale every layer's step to its weights, for very large batches (arXiv 1708.03888, 1904.00962)."""
    lr: float = bounded(0.1, above=0, most=1000)
    """Peak learning rate, for a step of lr_batch_size images."""
    lr_batch_size: int = bounded(0, least=0, most=2**24)
    """The learning rate grows in proportion to the global batch over this many images [images; 0: does not grow]."""
    momentum: float = bounded(0.9, least=0, below=1)
    """Momentum."""
    nesterov: bool = True
    """Nesterov's form of momentum (SGD)."""
    decay: float = bounded(0.9, least=0, below=1)
    """Decay of the mean of squared gradients (RMSprop)."""
    epsilon: float | None = bounded(None, above=0, most=1000)
    """Added to the mean of squared gradients (RMSprop) or to its root (LAMB) [null: 1.0, for LAMB 1e-6]."""
    weight_decay: float = bounded(4e-5, least=0, most=1)
    """Decay of convolution and linear weights, not of biases or batch normalisation."""
    head_lr: float | None = bounded(None, above=0, most=1000)
    """Peak learning rate of the classifier and the auxiliary heads, where theirs is another [null: lr]."""
    layer_decay: float = bounded(1.0, above=0, most=1)
    """Layer-wise decay of the learning rate: the last stage before the classifier learns at so much of it, each stage before
    at so much of the next one's (arXiv 1801.06146, section 3.2) [factor; 1: all alike]."""
    clip_norm: float | None = bounded(None, above=0, most=1_000_000_000)
    """Largest norm of the gradient; longer ones are scaled down [null: never]."""

    @property
    def epsilon_in_effect(self) -> float:
        """The epsilon that the optimizer adds: its own where none is given, 0 where it adds none."""
        own = {"rmsprop": 1.0, "lamb": 1e-6}.get(self.name, 0.0)
        return own if self.epsilon is None or not own else self.epsilon


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
    """Decay per step [0: no average]."""
    recalibrate: int = bounded(0, least=0, most=1_000_000)
    """Measure batch normalisation's statistics anew for the averaged weights before evaluation [batches a rank; 0: no]."""


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
