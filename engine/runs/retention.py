"""Which checkpoints of a run stay: the newest, those of the best evaluations, and some for good."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.runs.checkpoint_file import checkpoint_step, list_checkpoints


@dataclass(frozen=True)
class Retention:
    """newest: so many that were written last; best: so many of the highest accuracy; for_good: those at multiples of so many
    steps, 0 for none. A checkpoint stays when any of the three wants it."""

    newest: int
    best: int = 0
    for_good: int = 0

    def superfluous(self, folder: Path, scores: Mapping[int, float]) -> list[Path]:
        """The checkpoints of `folder` that none of the three wants; `scores` holds the accuracy by step, where it is known."""
        # By the time of writing: after a return to an earlier step the highest number need not be the newest.
        written = sorted(list_checkpoints(folder), key=lambda path: (path.stat().st_mtime_ns, path))
        scored = [path for path in written if checkpoint_step(path) in scores]
        scored.sort(key=lambda path: (scores[checkpoint_step(path)], path))
        kept = {*written[-self.newest :], *scored[len(scored) - min(self.best, len(scored)) :]}
        return [path for path in written if path not in kept and not self._stays(checkpoint_step(path))]

    def _stays(self, step: int) -> bool:
        return self.for_good > 0 and step % self.for_good == 0
