"""What holds a training back, said in words, from its measured parts; and the setting that would change it."""

import math
from dataclasses import dataclass, field

from benchmarks.reporting.results import number

# Below this share of the step's own speed, what feeds the step is worth changing.
FED = 0.95
# A step that is so much faster without its exchange is held back by it.
EXCHANGE = 1.05
# The host is the limit where launching takes nearly all of a step.
HOST = 0.9
# A bound that is reached to less than this is not what holds the step back; the kernels' efficiency is.
REACHED = 0.5


@dataclass(frozen=True)
class Observation:
    """A training's measured parts, in images a second over all ranks unless said otherwise.

    step: on synthetic batches; data: the loader alone; end_to_end: both; without_exchange: the step without
    communication (None on one rank); waiting: share of the end-to-end time in which the step waited for a batch;
    host_share: share of a step that the host needs to launch it (None on a CPU); bound: the roofline's images a second,
    of which the larger part is bound_by "compute" or "memory"; the rest are the settings in use.
    """

    step: float
    data: float
    end_to_end: float
    waiting: float
    bound: float
    bound_by: str
    without_exchange: float | None = None
    host_share: float | None = None
    on_cpu: bool = True
    workers: int = 1
    cores: int = 1
    batch_size: int = 32
    compiled: bool = False
    bf16: bool = False
    bf16_is_faster: bool = False


@dataclass(frozen=True)
class Verdict:
    """limiter: input, communication, host, compute or memory bandwidth; `words` say it with the figures; `change` are
    options of the training that would help, empty when no setting would."""

    limiter: str
    words: str
    change: dict[str, str] = field(default_factory=dict)


def judge(seen: Observation) -> Verdict:
    """The limiter: what feeds the step if the step is not fed, else the first of exchange, host and device that is."""
    # Images a second where decoding and computing take turns on the same cores.
    shared = 1 / (1 / seen.step + 1 / seen.data)
    # Where the step never waits, and decoding needs too little of the cores to slow it, a slower measurement of both together
    # is noise and not the input.
    noise = seen.waiting < 1 - FED and shared >= FED * seen.step
    if seen.end_to_end < FED * seen.step and not noise:
        return _input(seen, shared)
    if seen.without_exchange is not None and seen.without_exchange > EXCHANGE * seen.step:
        return _communication(seen, seen.without_exchange)
    if seen.host_share is not None and seen.host_share > HOST:
        words = (
            f"The host holds training back: launching kernels takes {seen.host_share:.0%} of a step of {number(seen.step)} "
            "images/s. --compile.enabled true --compile.mode reduce-overhead (CUDA graphs) or a larger --data.batch_size "
            f"brings it nearer to the device's {number(seen.bound)}."
        )
        return Verdict("host", words, {"compile.enabled": "true", "compile.mode": "reduce-overhead"})
    return _device(seen)


def _input(seen: Observation, shared: float) -> Verdict:
    words = (
        f"The input holds training back: the step alone does {number(seen.step)} images/s, the loader alone "
        f"{number(seen.data)}, both {number(seen.end_to_end)} ({seen.end_to_end / seen.step:.0%} of the step, waiting "
        f"{seen.waiting:.0%} of the time)."
    )
    needed = math.ceil(seen.workers * seen.step / seen.data)
    if seen.data < seen.step and seen.workers < seen.cores:
        workers = min(seen.cores, needed)
        reach = number(min(seen.step, seen.data * workers / seen.workers))
        words += f" --data.workers {workers} instead of {seen.workers} would bring up to {reach} images/s."
        return Verdict("input", words, {"data.workers": str(workers)})
    if seen.on_cpu and (seen.waiting < 1 - FED or seen.end_to_end > 0.9 * shared):
        words += (
            f" Decoding and computing share {seen.cores} cores, which allows {number(shared)}: smaller stored images "
            "(pipelines/prepare.py) or a larger network per image lessen decoding's part; more threads would not."
        )
        return Verdict("input", words)
    if seen.data >= seen.step:
        words += " The loader is fast enough by itself but does not keep pace beside the step: --data.prefetch 4 evens it out."
        return Verdict("input", words, {"data.prefetch": "4"})
    words += (
        f" All {seen.cores} cores decode already; {needed} threads would be needed: store smaller images "
        "(pipelines/prepare.py), use --data.backend dali with a GPU's decoder, or more cores."
    )
    return Verdict("input", words)


def _communication(seen: Observation, without: float) -> Verdict:
    batch = str(2 * seen.batch_size)
    reach = 2 / (1 / without + 1 / seen.step)  # twice the batch halves the exchanges an image
    words = (
        f"Communication holds training back: the step does {number(seen.step)} images/s, and {number(without)} "
        f"without exchanging gradients ({1 - seen.step / without:.0%} of the time). --data.batch_size {batch} halves the "
        f"exchanges an image and would bring about {number(reach)}; so does accumulating (--data.global_batch_size)."
    )
    return Verdict("communication", words, {"data.batch_size": batch})


def _device(seen: Observation) -> Verdict:
    limiter = "compute" if seen.bound_by == "compute" else "memory bandwidth"
    share, batch = seen.step / seen.bound, str(2 * seen.batch_size)
    words = (
        f"The step holds training back, and the loader keeps up ({number(seen.end_to_end)} images/s end to end is "
        f"{seen.end_to_end / seen.step:.0%} of the step's {number(seen.step)}). Its limit is {limiter}: this machine's "
        f"measured rates allow {number(seen.bound)}, of which {share:.0%} is reached."
    )
    if not seen.bf16 and seen.bf16_is_faster:
        return Verdict(limiter, f"{words} --precision bf16 is faster on this device.", {"precision": "bf16"})
    if not seen.compiled and (share < REACHED or limiter == "memory bandwidth"):
        words += " --compile.enabled true fuses element-wise work into its neighbours."
        return Verdict(limiter, words, {"compile.enabled": "true"})
    if share < REACHED:
        words += f" --data.batch_size {batch} may use the device better."
        return Verdict(limiter, words, {"data.batch_size": batch})
    words += " No setting is left that would change much: a faster machine, more ranks or a smaller network would."
    return Verdict(limiter, words)
