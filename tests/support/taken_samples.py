"""Which samples each rank of a run took: told by a hook, as its steps come, and checked when it is over."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from engine.monitoring.hooks import Hook
from engine.training import trainer
from pipelines import TrainPlan


class TakenSamples(Hook):
    """Writes a line a step to RUN/samples/START-RANK.jsonl: the step, the number of ranks, and the samples of this one.
    A step takes SECONDS_A_STEP longer."""

    def __init__(self) -> None:
        self._taken: list[int] = []
        self._file: Any = None
        next_batch = trainer.Trainer._next_batch

        def noted(this: trainer.Trainer, batches: Any) -> Any:
            batch = next_batch(this, batches)
            self._taken += batch.indices.tolist()
            return batch

        trainer.Trainer._next_batch = noted  # type: ignore[method-assign]

    def on_step(self, run: Any) -> None:
        """Notes what the step took, before the ranks vote on a checkpoint of it."""
        communicator = run.communicator
        if self._file is None:
            folder = run.directory.path / "samples"
            folder.mkdir(exist_ok=True)
            start = os.environ.get("SLURM_RESTART_COUNT", "0")
            self._file = (folder / f"{start}-{communicator.rank}.jsonl").open("a", buffering=1)
        line = {"step": run.progress.step, "ranks": communicator.world_size, "samples": self._taken}
        self._file.write(json.dumps(line) + "\n")
        self._taken = []
        time.sleep(float(os.environ.get("SECONDS_A_STEP", "0")))


def check_samples(run: Path, plan: TrainPlan, epochs: int) -> list[int]:
    """The number of ranks of each start of a run that trained. AssertionError unless every step that stayed, which is the one of
    the last start that took it, took the samples of the plan, each once."""
    steps: dict[int, dict[int, dict[int, list[int]]]] = {}  # by step, start and rank
    worlds: dict[int, int] = {}
    for path in sorted((run / "samples").glob("*.jsonl")):
        start, rank = map(int, path.stem.split("-"))
        for text in path.read_text().splitlines():
            line = json.loads(text)
            worlds[start] = line["ranks"]
            steps.setdefault(line["step"], {}).setdefault(start, {})[rank] = line["samples"]
    assert sorted(steps) == list(range(1, epochs * plan.batches + 1)), "steps are missing, or too many"
    for step, versions in steps.items():
        shares = versions[max(versions)]
        assert len(shares) == worlds[max(versions)], f"step {step}: not all ranks took part"
        taken = [sample for rank in sorted(shares) for sample in shares[rank]]
        expected = plan.indices(*divmod(step - 1, plan.batches)).tolist()
        assert taken == expected, f"step {step} took other samples than the plan's"
    return [worlds[start] for start in sorted(worlds)]
