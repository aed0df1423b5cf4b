"""Compiling without running: what fills the compiler's cache on idle cores while a GPU is busy with something else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any


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
