"""A training run's own parts, taken from the engine and set up to be timed: its step, its loader, and both together; and what
fills the compiler's cache on idle cores while a GPU is busy with something else.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from benchmarks.measuring.command_line import as_arguments
from benchmarks.measuring.measure import Subject, Window, drained, repeated
from engine.config.command_line import load_config
from engine.config.options import Config
from engine.distributed.communicator import Communicator
from engine.graphs.compilation import prepare_compiler, uses_cuda_graphs
from engine.training.assembly import assemble_step
from engine.training.loaders import training_loader
from pipelines import Dataset, open_dataset, sample_path

# Labels and images are arbitrary here; a rate that moves the weights by almost nothing keeps all numbers finite.
_LEARNING_RATE = 1e-5
_CLASSES = 1000
# Networks that a benchmark may compile in one process: each counts as one more size of the same function.
_COMPILED = 32
# Steps after the first one that warm up and record CUDA graphs, and take longer than those that play them.
_UNTIMED = 2
# Steps at the start of a window that do not count. The loader starts with them: whether it is slower than the step or
# faster, it then holds as many batches as at the window's end.
_DISCARD = 2


class Workload:
    """What `config` would train with, on this rank, to tell 1000 classes apart. `images` is a step's number of images over
    all ranks; `images_and_labels` are the synthetic batch: uint8 (batch, 3, size, size) in channels_last, and labels."""

    @classmethod
    def synthetic(cls, settings: Mapping[str, Any], communicator: Communicator, options: Sequence[str] = ()) -> Self:
        """One without data: on synthetic batches, with `settings` of the training and further `options` of its command line."""
        given = {"data.path": sample_path(), "data.backend": "synthetic"} | settings
        dataset = open_dataset(sample_path(), "train", progress=False)  # never read
        return cls(load_config([*as_arguments(given), *options]), communicator, dataset)

    def __init__(self, config: Config, communicator: Communicator, dataset: Dataset):
        self.config, self.communicator, self.device = config, communicator, communicator.device
        step = assemble_step(config, communicator, _CLASSES)
        prepare_compiler(config.compile, _COMPILED, step.network)
        self.network, self.batching, self.bf16 = step.network.train(), step.batching, step.dtype == torch.bfloat16
        self.images = self.batching.global_batch
        self._parallelism, self._step = step.parallelism, step.train_step
        self._parallelism.set_learning_rate(_LEARNING_RATE)
        self.resolution = config.data.resolution or self.network.input_size
        self.loader = training_loader(config, dataset, self.network, self.batching, communicator)
        shape = (self.batching.batch_size, self.resolution, self.resolution, 3)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device).permute(0, 3, 1, 2)
        self.images_and_labels = images, torch.randint(0, _CLASSES, shape[:1], device=self.device)
        self.waiting: list[float] = []  # the share of each end-to-end window in which the step waited for a batch
        self.first_step_seconds: float | None = None
        self.step_seconds = 0.0  # of the last that `steps_in` took
        self._epoch, self._waited = 0, 0.0

    # ---- what a step is ---------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One optimizer step on the synthetic batch."""
        self._run(itertools.repeat(self.images_and_labels))

    def _run(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        self._step.begin(0)
        for _ in range(self.batching.micro_batches):
            self._step.accumulate(*next(batches))
        self._step.update()

    # ---- what can be timed ------------------------------------------------------------------------------------------

    def steps_in(self, seconds: float, least: int = 2) -> int:
        """How many steps a window of about `seconds` has, the same on every rank. Takes a few steps to find out; the first
        ever compiles, if that is wanted, and its time stays in `first_step_seconds`."""
        first = self._seconds_of_a_step()
        if self.first_step_seconds is None:
            self.first_step_seconds = first
            for _ in range(_UNTIMED if uses_cuda_graphs(self.config.compile) else 0):
                self._seconds_of_a_step()
        self.step_seconds = max(*self.communicator.gather(self._seconds_of_a_step()), 1e-6)
        return max(least, round(seconds / self.step_seconds))

    def _seconds_of_a_step(self) -> float:
        started = time.perf_counter()
        self.step()
        self._wait()
        return time.perf_counter() - started

    def timed_step(self, steps: int, exchange: bool = True) -> Subject:
        """(a) The step alone, on the synthetic batch, with or without the gradients' exchange among the ranks, whose weights
        drift apart then."""

        def step() -> None:
            with contextlib.nullcontext() if exchange else self._parallelism.without_exchange():
                self.step()

        return repeated(step, self.images, seconds=0.0, least=steps, device=self.device)

    def timed_data(self, seconds: float) -> Subject:
        """(b) This rank's loader alone, as fast as it can."""
        return drained(self._pass, ahead=self.config.data.prefetch + 1, seconds=seconds)

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
            for _ in range(_DISCARD):
                self._run(batches)
            self._wait()
            self._waited, marks = 0.0, [time.perf_counter()]
            for _ in range(steps):
                self._run(batches)
                marks.append(time.perf_counter())
            self._wait()
            elapsed = time.perf_counter() - marks[0]
            batches.close()
            self.waiting.append(self._waited / elapsed)
            return Window(steps * self.images, elapsed, tuple(b - a for a, b in itertools.pairwise(marks)))

        return window

    def _endless(self) -> Generator[tuple[Tensor, Tensor]]:
        while True:
            asked = time.perf_counter()
            for batch in self.loader:
                self._waited += time.perf_counter() - asked
                yield batch.images, batch.labels
                asked = time.perf_counter()

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


# ---- compiling without running ---------------------------------------------------------------------------------


def compiled_at_once() -> contextlib.AbstractContextManager[Any]:
    """Has backward graphs compiled together with forward ones. The compiler's cache takes this for a part of its key: what
    `compile_only` left there is found by a process that compiles within this too."""
    import torch._functorch.config

    return torch._functorch.config.patch(force_non_lazy_backward_lowering=True)


def compile_only(step: Callable[[], Any]) -> None:
    """Calls `step`, a training step, as far as its graphs, forward and backward, are compiled and in the compiler's cache."""
    from torch._inductor.output_code import CompiledFxGraph

    def stop(*_: Any, **__: Any) -> Any:
        raise _Compiled

    run = CompiledFxGraph.__call__
    CompiledFxGraph.__call__ = stop  # type: ignore[method-assign]
    try:
        # At once: else the backward pass would be compiled when it first runs.
        with compiled_at_once(), contextlib.suppress(_Compiled):
            step()
    finally:
        CompiledFxGraph.__call__ = run  # type: ignore[method-assign]


class _Compiled(Exception):
    """Raised where a compiled graph would have run."""
