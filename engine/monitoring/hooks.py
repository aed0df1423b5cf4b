"""What may act during a run beside the run itself: trackers, profilers, benchmarks, users' own code.

A hook is a class with some of these methods; `--hooks my_module:MyHook` adds one to a run, `assemble(config,
hooks=[MyHook()])` in Python.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config.options import ConfigError

if TYPE_CHECKING:
    from engine.evaluation.findings import Findings


class Hook:
    """Base of all hooks: each method does nothing unless overridden.

    `run` is the engine.training.assembly.Run under way. What a hook raises ends the run.
    """

    def on_step(self, run: Any) -> None:
        """An optimizer step is done: the `run.progress.step`-th. On every rank."""

    def on_row(self, run: Any, row: dict[str, Any]) -> None:
        """A row was written to metrics.jsonl (kind train, eval, event or end). On the first rank."""

    def on_evaluation(self, run: Any, row: dict[str, Any], findings: "Findings") -> None:
        """The validation split was evaluated: the row, and what was taken for what. On every rank."""

    def on_save(self, run: Any, path: Path) -> None:
        """A checkpoint is being written, in the background, to `path`. On the first rank."""

    def on_end(self, run: Any, outcome: Any) -> None:
        """The run ends well or was asked to stop: an engine.training.outcome.Outcome. On every rank."""

    def close(self) -> None:
        """The process leaves the run, in any case, after a failure too."""


class Hooks:
    """The hooks of a run, called in order; an event that no hook overrides costs nothing."""

    def __init__(self, hooks: Sequence[Hook]):
        self._hooks = list(hooks)
        self._bind()

    def _bind(self) -> None:
        self.step, self.row, self.evaluation, self.save, self.end = (
            self._of(name) for name in ("on_step", "on_row", "on_evaluation", "on_save", "on_end")
        )

    @contextlib.contextmanager
    def added(self, hook: Hook) -> Iterator[None]:
        """Within it, `hook` acts too, after all others."""
        self._hooks.append(hook)
        self._bind()
        try:
            yield
        finally:
            self._hooks.remove(hook)
            self._bind()

    def _of(self, name: str) -> Any:
        wanted = [getattr(hook, name) for hook in self._hooks if getattr(type(hook), name) is not getattr(Hook, name)]

        def call(*arguments: Any) -> None:
            for method in wanted:
                method(*arguments)

        return call

    def close(self) -> None:
        for hook in self._hooks:
            hook.close()


def load_hooks(names: str) -> list[Hook]:
    """The hooks of `--hooks module:Class,...`, made without arguments; modules are looked for in the current directory
    too. Raises ConfigError for one that is not there or is none."""
    return [_load(name.strip()) for name in names.split(",") if name.strip()]


def _load(name: str) -> Hook:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(f"option --hooks: {name!r} is not of the form module:Class")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(f"option --hooks: {module} cannot be imported: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Hook)):
        raise ConfigError(f"option --hooks: {module} has no hook {attribute} (a class derived from engine.Hook)")
    return found()
