"""A model of data-parallel training: compute, communication that it hides in part, and waiting for the slowest rank.

    T(n, b) = C(n, b) * (1 + jitter * z(n)) + tail(n) + max(0, A(n) - tail(n) - overlap * C(n, b))

C(n, b) = (fixed + b * per_image) * (1 + crowding * (ranks of the node - 1)) is a rank's own step; crowding is what ranks
take from each other's memory and clocks. A(n) is the all-reduce of the gradients: a ring within the node, then
a ring among the nodes on the node's links (Patarasuk and Yuan, 2009: each of n ranks sends and receives 2 (n-1)/n of the
data). It overlaps the backward pass, `overlap` of C, but for the tail: the last bucket of gradients, which exists only
when the backward pass is over. A synchronous step ends with its slowest rank: z(n) is the expected maximum of n standard
normal variables.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats
from torchvision.models import resnet50

from benchmarks.measuring.counting import counts
from inception import create_model

# DDP's default size of a bucket of gradients.
BUCKET = 25 * 2**20
# The backward pass is two thirds of a step: two of three equal matrix products.
OVERLAP = 2 / 3
# Deviation of a rank's step over its mean where nothing better is known: clocks, kernels' scheduling, the host.
JITTER = 0.02
# A GPU kernel's least duration with its launch, seconds.
KERNEL = 5e-6


@dataclass(frozen=True)
class Interconnect:
    """Links: ranks a node, bytes a second that a rank sends within its node, bytes a second of a node's links together,
    and the seconds that a message takes at least."""

    name: str
    ranks_per_node: int
    within: float
    node: float
    latency: float

    def all_reduce(self, ranks: int, size: float) -> float:
        """Seconds that summing `size` bytes over `ranks` takes."""
        local = min(ranks, self.ranks_per_node)
        nodes = -(-ranks // self.ranks_per_node)
        seconds = 2 * (local - 1) / local * size / self.within + 2 * (local - 1) * self.latency
        if nodes > 1:
            seconds += 2 * (nodes - 1) / nodes * size / self.node + 2 * math.ceil(math.log2(nodes)) * self.latency
        return seconds


# Rates that the links reach in practice, about 80% of their signalling rate (60% for TCP).
INTERCONNECTS = {
    "nvlink+infiniband": Interconnect("NVLink 4, 8 x 400 Gbit/s InfiniBand a node", 8, 360e9, 8 * 40e9, 5e-6),
    "nvlink+ethernet": Interconnect("NVLink 4, 100 Gbit/s Ethernet a node", 8, 360e9, 10e9, 20e-6),
    "pcie+25gbit": Interconnect("PCIe 3, 25 Gbit/s Ethernet a node, 4 GPUs", 4, 10e9, 1.9e9, 25e-6),
}


@dataclass(frozen=True)
class ScalingModel:
    """See the module. fixed, per_image: seconds; gradients, bucket: bytes."""

    fixed: float
    per_image: float
    gradients: float
    jitter: float = JITTER
    overlap: float = OVERLAP
    bucket: float = BUCKET
    crowding: float = 0.0

    def compute(self, batch: int, neighbours: int = 0) -> float:
        """Seconds of a rank's own step on `batch` images, with so many other ranks on its node."""
        return (self.fixed + batch * self.per_image) * (1 + self.crowding * neighbours)

    def step(self, ranks: int, batch: int, links: Interconnect) -> float:
        """Seconds of a step of `ranks` with `batch` images each."""
        return sum(self.parts(ranks, batch, links).values())

    def parts(self, ranks: int, batch: int, links: Interconnect) -> dict[str, float]:
        """The seconds of a step by cause: compute, stragglers, communication that nothing hides."""
        compute = self.compute(batch, min(ranks, links.ranks_per_node) - 1)
        if ranks == 1:
            return {"compute": compute, "stragglers": 0.0, "communication": 0.0}
        exchange = links.all_reduce(ranks, self.gradients)
        tail = exchange * min(1.0, self.bucket / self.gradients)
        exposed = tail + max(0.0, exchange - tail - self.overlap * compute)
        waiting = compute * self.jitter * expected_maximum(ranks)
        return {"compute": compute, "stragglers": waiting, "communication": exposed}

    def efficiency(self, ranks: int, batch: int, links: Interconnect, base: tuple[int, int] | None = None) -> float:
        """Images a second and rank over those of `base` (ranks, batch), by default one rank with the same batch."""
        base_ranks, base_batch = base or (1, batch)
        return batch / self.step(ranks, batch, links) * self.step(base_ranks, base_batch, links) / base_batch


def expected_maximum(ranks: int) -> float:
    """The expected maximum of so many independent standard normal variables (Blom's approximation, 1958)."""
    return float(stats.norm.ppf((ranks - 0.375) / (ranks + 0.25))) if ranks > 1 else 0.0


@dataclass(frozen=True)
class Published:
    """A scaling that others measured: efficiency at `ranks` and `batch` over `base` (ranks, batch)."""

    name: str
    source: str
    model: ScalingModel
    links: Interconnect
    ranks: int
    batch: int
    base: tuple[int, int]
    efficiency: float

    @property
    def predicted(self) -> float:
        return self.model.efficiency(self.ranks, self.batch, self.links, self.base)


def model_from_rate(rate: float, batch: int, launches: int, gradients: float) -> ScalingModel:
    """The model of a GPU that trains `rate` images a second at `batch`: no step is shorter than its kernels' launches."""
    fixed = launches * KERNEL
    return ScalingModel(fixed, max(0.0, batch / rate - fixed) / batch, gradients)


def published_scalings() -> list[Published]:
    """The published scalings that the model is held against, with no constant fitted to them.

    Rates of one GPU are published too: TensorFlow's benchmarks (2017) gave 142 images/s for Inception-v3 on a P100 at a
    batch of 64; MLPerf's ResNet-50 on eight H100 comes to about 7,000 images/s each at a batch of 400, with gradients in
    16 bits.
    """
    inception, resnet = counts(partial(create_model, "inception_v3"), 2, 299), counts(resnet50, 2, 224)
    return [
        Published(
            "Inception-v3 on 512 P100, batch 64 each", "Horovod (arXiv 1802.05799)",
            model_from_rate(142, 64, inception.launches, 4 * inception.parameters), INTERCONNECTS["pcie+25gbit"],
            512, 64, (1, 64), 0.90,
        ),
        Published(
            "ResNet-50 from 8 H100 (batch 400) to 64 (batch 50)", "MLPerf Training v3.1 and v4.0 results",
            model_from_rate(7000, 400, resnet.launches, 2 * resnet.parameters), INTERCONNECTS["nvlink+infiniband"],
            64, 50, (8, 400), 0.685,
        ),
    ]  # fmt: skip


def fit_compute(points: list[tuple[int, float]]) -> tuple[float, float]:
    """fixed and per-image seconds from (batch, seconds of a step) at two or more batches, by least squares on relative
    errors; the fixed part is not negative."""
    batches, seconds = np.array(points, float).T
    slope, fixed = np.polyfit(batches, seconds, 1, w=1 / seconds) if len(set(batches)) > 1 else (0.0, 0.0)
    if fixed < 0 or slope <= 0:
        fixed, slope = 0.0, (batches / seconds).sum() / ((batches / seconds) ** 2).sum()
    return float(fixed), float(slope)


def fit_links(points: list[tuple[float, float]], ranks: int) -> Interconnect:
    """A node's links from (bytes, seconds) of all-reduces of a small and of a large message."""
    (small, short), (large, long) = min(points), max(points)
    rate = 2 * (ranks - 1) / ranks * (large - small) / max(long - short, 1e-9)
    return Interconnect("this machine", 10**6, rate, rate, max(0.0, short / (2 * (ranks - 1))))


def fit_overlap(step: float, compute: float, exchange: float, tail: float) -> float:
    """The share of compute that hides communication, from a step with and without it (0: none, 2/3: the backward pass)."""
    exposed = max(0.0, step - compute)
    hidden = max(0.0, exchange - max(exposed, tail))
    return min(OVERLAP, hidden / compute)
