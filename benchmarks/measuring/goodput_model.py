"""What a run on many GPUs loses to starting, voting, saving and failures: simulated failure by failure.

Goodput is the share of the time of a job that trains what stays trained. Not in it: how well a step scales, which is
scaling_model's.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Costs:
    """What is assumed of a cluster and a run; in seconds unless said otherwise. None of it is measured on one."""

    # Llama 3's training lost a job to a fault of hardware or software every 2.8 hours on 16,384 H100 (419 unexpected
    # interruptions in 54 days; The Llama 3 Herd of Models, 2024, section 3.3.4).
    gpu_hours_between_failures: float = 16_384 * 54 * 24 / 419
    share_of_hangs: float = 0.1  # of failures that no process ends of: the watchdog waits for its limit
    hang_noticed: float = 480.0  # 80% of strategy.timeout
    crash_noticed: float = 10.0  # until the launcher has ended all ranks
    requeued: float = 150.0  # until a batch system has started the job again, on healthy nodes
    imports: float = 20.0
    index: float = 5.0  # read from its cache
    compiling: float = 60.0  # with a warm cache
    join_a_rank: float = 0.005  # at the first rank's store
    checkpoint_gigabytes: float = 0.5
    read_gigabytes_a_second: float = 1.0  # by the first rank
    broadcast_gigabytes_a_second: float = 5.0  # to the others, along a tree
    vote: float = 20e-6  # a level of a tree, there and back once a second; wishes are on their way there during steps
    save_every: float = 600.0
    save: float = 0.5  # the copy to memory; writing goes on in the background
    warned: float = 0.0  # share of failures that are announced, so that a checkpoint is saved before

    def start(self, gpus: int) -> float:
        """From the launcher's beginning to the first step."""
        reading = self.checkpoint_gigabytes / self.read_gigabytes_a_second
        sharing = math.ceil(math.log2(gpus)) * self.checkpoint_gigabytes / self.broadcast_gigabytes_a_second
        return self.imports + self.index + self.compiling + self.join_a_rank * gpus + reading + sharing

    def voting(self, gpus: int) -> float:
        """The share of training that voting takes."""
        return 2 * math.ceil(math.log2(gpus)) * self.vote


@dataclass(frozen=True)
class Account:
    """Where the time of a job went, as shares that add up to 1; and how often it failed."""

    goodput: float
    starting: float
    voting: float
    saving: float
    lost: float  # trained, and not saved when a failure came
    noticing: float  # from a failure to the end of the job's processes, and back from the queue
    failures_a_day: float


def simulate(gpus: int, days: float, costs: Costs | None = None, seed: int = 0) -> Account:
    """A job of `gpus` for so many days, its failures drawn from an exponential distribution by `seed`."""
    costs = costs or Costs()
    random = np.random.default_rng(seed)
    between, end = costs.gpu_hours_between_failures * 3600 / gpus, days * 86_400
    spent = dict.fromkeys(("training", "starting", "voting", "saving", "lost", "noticing"), 0.0)
    now, failures = 0.0, 0
    while now < end:
        # One start: it may fail before its first step, and whenever it trains.
        alive = min(float(random.exponential(between)), end - now)
        start = min(costs.start(gpus), alive)
        saves, since = divmod(alive - start, costs.save_every + costs.save)
        now += alive
        over = now >= end
        kept = over or random.random() < costs.warned
        trained = saves * costs.save_every + (since if kept else 0.0)
        spent["starting"] += start
        spent["saving"] += saves * costs.save
        spent["lost"] += 0.0 if kept else since
        spent["voting"] += trained * costs.voting(gpus)
        spent["training"] += trained * (1 - costs.voting(gpus))
        if not over:
            failures += 1
            noticed = costs.hang_noticed if random.random() < costs.share_of_hangs else costs.crash_noticed
            away = min(noticed + costs.requeued, end - now)
            spent["noticing"] += away
            now += away
    return Account(*(seconds / end for seconds in spent.values()), failures / days)
