"""torch.compile without surprises: a cache that outlives the process, sizes compiled ahead, recompilations counted."""

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.config.options import CompileConfig, ConfigError
from pipelines.support.cache import user_cache

# Kernels that do not wait for one another are launched as one: casts of weights, of gradients, small sums.
COMBO_KERNELS = {"combo_kernels": True}
_RECOMPILES = "torch._dynamo.guards.__recompiles"  # where torch's compiler tells why a graph had to be compiled again


def prepare_compiler(options: CompileConfig, shapes: int, *networks: nn.Module) -> None:
    """Sets the process up to compile: the cache directory, and room for the graphs of `networks` for `shapes` of their input."""
    if not options.enabled:
        return
    cache = Path(options.cache).expanduser() if options.cache else user_cache() / "compile"
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    # torch writes its own choice, a temporary directory, into the variable as soon as its compiler is imported.
    if options.cache or not chosen or Path(chosen).name.startswith("torchinductor_"):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "1")
    # Beyond this limit torch runs a function uncompiled, without a word: leave room for training and evaluation of every shape,
    # and of every stage where each is a graph, since stages share their code.
    stages = sum(len(list(network.children())) for network in networks) if options.scope == "block" else len(networks)
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 2 * shapes * stages)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 2 * config.recompile_limit)


def uses_cuda_graphs(options: CompileConfig) -> bool:
    """Whether a GPU's launches are recorded and played again, by the mode that `options` name."""
    return options.enabled and options.mode in ("reduce-overhead", "max-autotune")


def check_cuda_graphs(options: CompileConfig, micro_batches: int, device: torch.device) -> None:
    """Raises ConfigError where a CUDA graph that is played would write over what is still needed: gradients that it gave before,
    to which others are to be added (pytorch issues 96693, 169545), or, where each stage is a graph, what the stage before
    gave, since torch takes every call without gradients, as in evaluation, for a new beginning."""
    if not uses_cuda_graphs(options) or device.type != "cuda":
        return
    if micro_batches > 1:
        raise ConfigError(
            f"--compile.mode {options.mode} uses CUDA graphs, which cannot add up the gradients of {micro_batches} "
            "micro-batches: choose default or max-autotune-no-cudagraphs, or a --data.batch_size that makes it one"
        )
    if options.scope == "block":
        raise ConfigError(
            f"--compile.mode {options.mode} uses CUDA graphs, which write over what the stage before gave where each stage is "
            "one: choose --compile.scope step, or the mode default or max-autotune-no-cudagraphs"
        )


def compiled(module: nn.Module, options: CompileConfig) -> Callable[..., Any]:
    """`module` as `options` say: one graph of it all, its network's stages each a graph of their own, or as it is.

    Stages compile faster, since repeated blocks share their graphs, and give the fusion less to work with.
    """
    if not options.enabled:
        return module
    if options.scope == "block":
        network: nn.Module = module.network  # type: ignore[assignment]
        teacher: nn.Module | None = getattr(module, "teacher", None)
        for stage in (*network.children(), *(teacher.network.children() if teacher else ())):  # type: ignore[union-attr]
            stage.compile(dynamic=False, **_how(options))
        return module
    return torch.compile(module, dynamic=False, **_how(options))


def _how(options: CompileConfig) -> dict[str, Any]:
    if not options.combo_kernels:
        return {"mode": options.mode}
    # torch takes a mode or options; a mode is a name for some.
    return {"options": torch._inductor.list_mode_options(options.mode) | COMBO_KERNELS}


class RecompileWatch(logging.Handler):
    """Collects the reasons of recompilations; `causes` holds one line each."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.causes: list[str] = []
        torch._logging.set_logs(recompiles=True)
        self._logger = logging.getLogger(_RECOMPILES)
        self._propagate, self._logger.propagate = self._logger.propagate, False
        self._others = self._logger.handlers[:]
        self._logger.handlers = [self]

    def emit(self, record: logging.LogRecord) -> None:
        lines = [line.strip() for line in record.getMessage().splitlines() if line.strip()]
        reasons = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
        self.causes.append(f"{lines[0]}: {reasons[0]}" if reasons else lines[0])

    def close(self) -> None:
        """Gives the compiler's log back."""
        self._logger.handlers, self._logger.propagate = self._others, self._propagate
        super().close()


def compile_ahead(run: Callable[[int], None], module: nn.Module, sizes: Iterable[int]) -> None:
    """Calls `run(size)` for every image size, then puts `module`'s buffers back: batch statistics stay as they were."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for size in sizes:
        run(size)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
