"""A training run's own parts, taken from the engine and set up to be timed: its step, its loader, and both together."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from benchmarks.measuring.measure import Subject, Window, drained, repeated
from engine.config.options import Config
from engine.distributed.communicator import Communicator
from engine.graphs.compilation import prepare_compiler, uses_cuda_graphs
from engine.training.assembly import assemble_step
from engine.training.loaders import training_loader
from pipelines import Batch, Dataset

# Labels and images are arbitrary here; a rate that moves the weights by almost nothing keeps all numbers finite.
_LEARNING_RATE = 1e-5
# Networks that a benchmark may compile in one process: each counts as one more size of the same function.
_COMPILED = 32
# Steps after the first one that warm up and record CUDA graphs, and take longer than those that play them.
_UNTIMED = 2
# Steps or batches at the start of a window that fill the queues and do not count.
DISCARD = 2


class Workload:
    """What `config` would train with, on this rank. `images` is a step's number of images over all ranks."""

    def __init__(self, config: Config, communicator: Communicator, dataset: Dataset, num_classes: int):
        self.config, self.communicator, self.device = config, communicator, communicator.device
        step = assemble_step(config, communicator, num_classes)
        prepare_compiler(config.compile, _COMPILED, step.network)
        self.network, self.batching, self.bf16 = step.network.train(), step.batching, step.bf16
        self.images = self.batching.global_batch
        self._parallelism, self._step = step.parallelism, step.train_step
        self._parallelism.set_learning_rate(_LEARNING_RATE)
        self.resolution = config.data.resolution or self.network.input_size
        self.loader = training_loader(config, dataset, self.network, self.batching, communicator)
        shape = (self.batching.batch_size, self.resolution, self.resolution, 3)
        self._images = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device).permute(0, 3, 1, 2)
        self._labels = torch.randint(0, num_classes, shape[:1], device=self.device)
        self.waiting: list[float] = []
        self._epoch = 0
        self.first_step_seconds: float | None = None

    @property
    def synthetic(self) -> tuple[Tensor, Tensor]:
        """The images, uint8 (batch, 3, size, size) in channels_last, and labels that `step` trains on."""
        return self._images, self._labels

    # ---- what a step is ---------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One optimizer step on the synthetic batch."""
        self._run((self._images, self._labels) for _ in range(self.batching.micro_batches))

    def step_without_exchange(self) -> None:
        """The same without the gradients' exchange among the ranks; the weights of the ranks drift apart."""
        with self._parallelism.without_exchange():
            self.step()

    def _run(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        self._step.begin(0)
        for _ in range(self.batching.micro_batches):
            self._step.accumulate(*next(batches))
        self._step.update()

    # ---- what can be timed ------------------------------------------------------------------------------------------

    def steps_in(self, seconds: float, least: int = 2) -> int:
        """How many steps a window of about `seconds` has, the same on every rank. Takes a few steps to find out; the first
        ever compiles, if that is wanted, and its time stays in `first_step_seconds`."""
        started = time.perf_counter()
        self.step()
        self._wait()
        if self.first_step_seconds is None:
            self.first_step_seconds = time.perf_counter() - started
            for _ in range(_UNTIMED if uses_cuda_graphs(self.config.compile) else 0):
                self.step()
            self._wait()
        started = time.perf_counter()
        self.step()
        self._wait()
        elapsed = max(self.communicator.gather(time.perf_counter() - started))
        return max(least, round(seconds / max(elapsed, 1e-6)))

    def timed_step(self, steps: int) -> Subject:
        """(a) The step alone, on the synthetic batch."""
        return repeated(self.step, self.images, seconds=0.0, least=steps, device=self.device)

    def timed_step_without_exchange(self, steps: int) -> Subject:
        """(a) without communication."""
        return repeated(self.step_without_exchange, self.images, seconds=0.0, least=steps, device=self.device)

    def timed_data(self, seconds: float) -> Subject:
        """(b) This rank's loader alone, as fast as it can."""
        return drained(self._pass, discard=DISCARD, seconds=seconds)

    def _pass(self) -> Generator[Tensor]:
        # A loader goes on where it was left; a pass is a whole epoch.
        self._epoch += 1
        self.loader.set_epoch(self._epoch)
        for batch in self.loader:
            if self.device.type == "cuda":
                torch.cuda.current_stream().synchronize()  # the copy to the device is part of the loader's work
            yield batch.images

    def timed_end_to_end(self, steps: int) -> Subject:
        """(c) The step on what the loader gives. The shares of time spent waiting for it collect in `waiting`."""

        def window() -> Window:
            batches = self._endless()
            for _ in range(DISCARD):
                self._run(batches)
            self._wait()
            started = previous = time.perf_counter()
            self._waited, durations = 0.0, []
            for _ in range(steps):
                self._run(batches)
                now = time.perf_counter()
                durations.append(now - previous)
                previous = now
            self._wait()
            elapsed = time.perf_counter() - started
            batches.close()
            self.waiting.append(self._waited / elapsed)
            return Window(steps * self.images, elapsed, tuple(durations))

        return window

    def _endless(self) -> Generator[tuple[Tensor, Tensor]]:
        self._waited = 0.0
        while True:
            epoch: Iterator[Batch] = iter(self.loader)
            while True:
                asked = time.perf_counter()
                batch = next(epoch, None)
                self._waited += time.perf_counter() - asked
                if batch is None:
                    break
                yield batch.images, batch.labels

    def host_share(self) -> float | None:
        """The share of a step's time that the host needs to launch it; None on a CPU, where it is the device."""
        if self.device.type != "cuda":
            return None
        shares = []
        for _ in range(5):
            self._wait()
            started = time.perf_counter()
            self.step()
            launched = time.perf_counter() - started
            self._wait()
            shares.append(launched / (time.perf_counter() - started))
        return sorted(shares)[len(shares) // 2]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def close(self) -> None:
        """Ends the loader's threads."""
        self.loader.close()
