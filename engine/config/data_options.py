"""The options of data: where it lies, how it is read, and what is done to training images."""

from dataclasses import dataclass, field
from typing import Literal

from engine.config.bounds import bounded


@dataclass
class NativeConfig:
    """The native backend."""

    planes_on_device: bool = False
    """In training, resize planes, as `--store planes` makes them, on the GPU instead of in the decoding threads."""


@dataclass
class DaliConfig:
    """DALI. All but `cut` matters on a GPU alone."""

    hw_decoder_load: float = bounded(0.65, least=0, most=1)
    """Share of a batch that the GPU's JPEG engine decodes; CUDA cores decode the rest [fraction]."""
    width_hint: int = bounded(0, least=0, most=65535)
    """Width that decoder memory is set aside for [pixels; 0: the largest of a sample of the dataset]."""
    height_hint: int = bounded(0, least=0, most=65535)
    """Height that decoder memory is set aside for [pixels; 0: as for the width]."""
    device_padding: int = bounded(16777216, least=0, most=2**40)
    """GPU memory set aside for a decoder thread [bytes]."""
    host_padding: int = bounded(8388608, least=0, most=2**40)
    """Host memory set aside for a decoder thread [bytes]."""
    affinity: bool = True
    """Bind DALI's threads to the cores nearest to the GPU."""
    cut: bool | None = None
    """Hand DALI only what a crop shows of JPEGs with restart markers, as `--store windows` makes them [null: on a CPU alone]."""


@dataclass
class FfcvConfig:
    """FFCV."""

    cache: Literal["os", "process"] = "os"
    """Read through the system's page cache, which all ranks share, or into each rank's own memory."""


@dataclass
class DataConfig:
    """The data and how it is read."""

    path: str = ""
    """Dataset with a train and a val split: class folders, tar shards, FFCV files or lists [path; empty: the embedded sample]."""
    train: str = ""
    """The training split where it lies apart: a folder, a list, a file or a pattern of shards [path; empty: in path]."""
    val: str = ""
    """The validation split where it lies apart [path; empty: in path]."""
    classes: str | None = None
    """File that names the classes in the order of their numbers, one a line [path; null: the order of their names]."""
    held_out: float = bounded(0.1, least=0.001, most=0.9)
    """Of a dataset without splits, the share of each class that is the val split, chosen by the images' names [fraction]."""
    backend: Literal["auto", "native", "dali", "ffcv", "synthetic"] = "auto"
    """What decodes the images; auto: the fastest on this machine."""
    batch_size: int | Literal["auto"] = bounded(32, least=1, most=65536)
    """Images in a batch of one rank [images; auto: as many as fit, of a global_batch_size that must be given]."""
    global_batch_size: int | None = bounded(None, least=1, most=2**24)
    """Images in an optimizer step, over all ranks; gradients accumulate to reach it [images; null: batch_size x ranks]."""
    workers: int = bounded(0, least=0, most=1024)
    """Decoding threads of a rank [threads; 0: the cores of the machine shared among its ranks]."""
    prefetch: int = bounded(2, least=1, most=1024)
    """Batches prepared ahead [batches]."""
    on_error: Literal["raise", "skip"] = "raise"
    """What an unreadable image does: end the run naming it, or be replaced by the next good one and reported."""
    quarantine: str | None = None
    """File that lists images to leave out, one a line [path]."""
    shuffle: Literal["full", "block", "none"] = "full"
    """Order of an epoch: any sample anywhere, windows of neighbouring samples for slow storage, or as stored."""
    sampler: Literal["all", "balanced"] = "all"
    """Which images make an epoch: each once, or each class equally often, images of rare ones several times."""
    resolution: int = bounded(0, least=0, most=8192)
    """Side of the square images given to the network [pixels; 0: the network's own size]."""
    crop_scale: tuple[float, float] = bounded((0.08, 1.0), above=0, most=1)
    """Area of a training crop [fraction of the image, smallest and largest]."""
    crop_ratio: tuple[float, float] = bounded((3 / 4, 4 / 3), above=0, most=100)
    """Aspect ratio of a training crop [width / height, smallest and largest]."""
    interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"
    """How a training crop is resized, always antialiased; random: either, drawn for each image, as timm trains."""
    flip: float = bounded(0.5, least=0, most=1)
    """How often a training image is mirrored [probability]."""
    native: NativeConfig = field(default_factory=NativeConfig)
    dali: DaliConfig = field(default_factory=DaliConfig)
    ffcv: FfcvConfig = field(default_factory=FfcvConfig)


@dataclass
class AugmentationConfig:
    """What else is done to training images, decided by the plan and carried out inside the training step."""

    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    """Operations drawn from a fixed list for every image (arXiv 1909.13719, 2103.10158)."""
    operations: int = bounded(2, least=1, most=4)
    """RandAugment's operations on an image, one after the other."""
    magnitude: int = bounded(9, least=0, most=30)
    """RandAugment's strength [0 to 30]."""
    colour: float = bounded(0.0, least=0, most=1)
    """Strength of the Inception networks' colour distortion [0 to 1; 1: their own; 0: none]."""
    mixup: float = bounded(0.0, least=0, most=1)
    """Blend pairs of images (arXiv 1710.09412) [alpha of the Beta distribution, 0 to 1; 0: never]."""
    cutmix: float = bounded(0.0, least=0, most=1)
    """Paste a box of another image (arXiv 1905.04899) [alpha, 0 to 1; 0: never]; with mixup, one or the other."""
    erasing: float = bounded(0.0, least=0, most=1)
    """How often a box is erased (arXiv 1708.04896) [probability]."""


@dataclass
class ProgressiveConfig:
    """Progressive resizing: small images at first, the full size at the end (arXiv 2104.00298, section 4)."""

    start: int = bounded(0, least=0, most=8192)
    """Side of the training images at first [pixels; 0: the full size from the beginning]."""
    begin_epoch: int = bounded(0, least=0, most=100_000)
    """Last epoch of that size [epochs]."""
    end_epoch: int = bounded(0, least=0, most=100_000)
    """First epoch of the full size [epochs]."""
    multiple: int = bounded(32, least=1, most=8192)
    """Sizes in between are multiples of this [pixels]."""
