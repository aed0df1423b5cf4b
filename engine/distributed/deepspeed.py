"""DeepSpeed: gradients, and with ZeRO the optimizer's state, are shared out among the ranks (arXiv 1910.02054).

Stage 0 is plain data parallelism; stage 1 cuts the optimizer's state into one part a rank; stage 2 the gradients too.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.config.batching import Batching
from engine.config.options import Config, ConfigError, StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.deepspeed_settings import deepspeed_config
from engine.distributed.parallelism import Parallelism
from engine.distributed.sync_batchnorm import synchronise_batchnorm
from engine.graphs.compilation import compiled
from engine.graphs.objective import Objective


class DeepSpeedParallelism(Parallelism):
    """A DeepSpeed engine over the same process group, the same batch normalisation and the same files as DDP."""

    name = "deepspeed"

    def __init__(self, communicator: Communicator, options: StrategyConfig):
        self._deepspeed = _import_deepspeed(communicator.device)
        super().__init__(communicator, options)
        self._exchanges = ExchangeTimer() if communicator.world_size > 1 else None

    def prepare(
        self, objective: Objective, optimizer: torch.optim.Optimizer, config: Config, batching: Batching
    ) -> Callable[..., Any]:
        settings = deepspeed_config(config, batching, dtype=objective.dtype)
        if self._options.sync_batchnorm:
            synchronise_batchnorm(objective, self.device, config.compile.enabled, bool(batching.uneven_ranks))
        self._remember(objective, optimizer)
        self._clips = config.optimizer.clip_norm is not None
        # DeepSpeed sends and flattens parameters as rows of bytes, which the channels-last layout is not.
        for parameter in objective.parameters():  # frozen ones and a teacher's too
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        self._engine, *_ = self._deepspeed.initialize(
            model=_as_module(compiled(objective, config.compile)),
            optimizer=optimizer,
            config=settings,
            dist_init_required=False,
        )
        self._zero = self._engine.optimizer if self._engine.zero_optimization() else None
        for parameter in objective.parameters():  # under ZeRO, those that learn lie in its vectors
            if parameter.ndim == 4 and (self._zero is None or not parameter.requires_grad):
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self._engine

    def without_exchange(self) -> AbstractContextManager[Any]:
        # DeepSpeed counts the backward passes itself: it knows from its settings how many make an update.
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        with self._timed("backward"):
            self._engine.backward(loss, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # counts; moves nothing

    def update(self, clip_norm: float | None, measure: bool) -> Tensor | None:
        norm = None
        if self._zero is None and (measure or self._clips):
            norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        with self._timed("optimizer"):
            self._engine.step()
        if self._zero is not None and (measure or self._clips):
            norm = torch.as_tensor(self._engine.get_global_grad_norm(), device=self.device)
        return norm

    @property
    def can_discard(self) -> bool:
        return False  # DeepSpeed counts every backward pass towards its next update

    def _timed(self, phase: str) -> AbstractContextManager[Any]:
        return nullcontext() if self._exchanges is None else self._exchanges.phase(phase)

    def time_exchange(self) -> None:
        if self._exchanges is not None:
            self._exchanges.begin()

    def exchange_seconds(self) -> dict[str, float]:
        return {} if self._exchanges is None else self._exchanges.read()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        if self._zero is None:
            return super().state_dict()
        result: dict[str, dict[str, Any]] = {}
        for flat, part, places in self._groups():
            for key, value in self._optimizer.state[part].items():
                is_partitioned = isinstance(value, Tensor) and value.shape == part.shape
                whole = self._gathered(value, flat) if is_partitioned else value
                for name, start in places.items():
                    result.setdefault(name, {})[key] = (
                        _piece(whole, start, self._names[name]).clone() if is_partitioned else value
                    )
        # The order of the network, as the other strategies have it.
        return {name: result[name] for name in self._names if name in result}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        if self._zero is None:
            super().load_state_dict(state)
            return
        self._zero.refresh_fp32_params()  # the parts to update, from the weights that were loaded
        for flat, part, places in self._groups():
            known = [name for name in places if name in state]
            for key in state[known[0]] if known else ():
                values = {name: state[name][key] for name in known}
                self._optimizer.state[part][key] = self._scattered(values, places, flat, part)

    def _groups(self) -> Iterator[tuple[Tensor, Tensor, dict[str, int]]]:
        """Of each parameter group: all its weights as one vector, this rank's part of it in fp32, and where in the
        vector each parameter starts, by name."""
        assert self._zero is not None
        for flat, part in zip(self._zero.bit16_groups_flat, self._zero.single_partition_of_fp32_groups):
            begin, end = flat.data_ptr(), flat.data_ptr() + flat.numel() * flat.element_size()
            yield (
                flat,
                part,
                {
                    name: (parameter.data_ptr() - begin) // flat.element_size()
                    for name, parameter in self._names.items()
                    if begin <= parameter.data_ptr() < end
                },
            )

    def _gathered(self, part: Tensor, flat: Tensor) -> Tensor:
        """The ranks' parts as one vector, on every rank."""
        whole = torch.empty(flat.numel(), dtype=part.dtype, device=part.device)
        dist.all_gather_into_tensor(whole, part)
        return whole

    def _scattered(self, values: Mapping[str, Any], places: Mapping[str, int], flat: Tensor, part: Tensor) -> Any:
        """This rank's part of a state given by parameter; a state that is not one value a weight stays as it is."""
        first = next(iter(values.values()))
        if not isinstance(first, Tensor) or first.ndim == 0:
            return first.clone() if isinstance(first, Tensor) else first
        whole = torch.zeros(flat.numel(), dtype=first.dtype, device=part.device)
        for name, value in values.items():
            _piece(whole, places[name], self._names[name]).copy_(value)
        return whole[self.communicator.rank * part.numel() : (self.communicator.rank + 1) * part.numel()].clone()


class ExchangeTimer:
    """Seconds that DeepSpeed's collectives take within the phases of one step, from its own log of communication.

    The log waits for the device at every collective, so that it is on for the step to be timed and off for all others.
    On the CPU and with DeepSpeed's defaults on a GPU, nothing is computed meanwhile: all of that time is waited.
    """

    def __init__(self) -> None:
        from deepspeed.comm.comm import comms_logger

        self._log = comms_logger
        self._active = False
        self._seconds: dict[str, float] = {}

    def begin(self) -> None:
        """Times the step that starts now."""
        self._active = True
        self._seconds = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Within it, collectives belong to the phase `name`."""
        if not self._active:
            yield
            return
        before, enabled, every = self._logged(), self._log.enabled, self._log.prof_all
        self._log.enabled = self._log.prof_all = True
        yield
        self._log.enabled, self._log.prof_all = enabled, every
        self._seconds[name] = self._seconds.get(name, 0.0) + self._logged() - before

    def _logged(self) -> float:
        by_size = (sizes.values() for sizes in self._log.comms_dict.values())
        return sum(sum(milliseconds) for entries in by_size for _, milliseconds, *_ in entries) / 1000

    def read(self) -> dict[str, float]:
        """Seconds by phase of the step timed last."""
        self._active = False
        return self._seconds


def _piece(whole: Tensor, start: int, parameter: nn.Parameter) -> Tensor:
    """The part of a vector that belongs to a parameter, in its shape."""
    return whole[start : start + parameter.numel()].view(parameter.shape)


def _as_module(function: Callable[..., Any]) -> nn.Module:
    if not isinstance(function, nn.Module):
        raise TypeError("DeepSpeed wraps modules only")
    return function


def _import_deepspeed(device: torch.device) -> Any:
    """The library, set up for `device`. Raises ConfigError when it is not installed."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    try:
        import deepspeed
        from deepspeed.ops import __compatible_ops__
    except ImportError as error:
        raise ConfigError(
            f"--strategy.name deepspeed needs DeepSpeed ({error}): pip install 'inception-training[deepspeed]'"
        ) from None
    # On CPUs it would compile an extension for inference at the first start, which takes a compiler and half a minute.
    __compatible_ops__["deepspeed_shm_comm"] = False
    # It warns of optimizers that its authors did not test under ZeRO; ours are, in tests/engine/distributed/test_strategies.py.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed
