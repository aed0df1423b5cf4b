"""Trainings of test_uneven_shares.py: each run on some ranks, then on other numbers of them.

    python elastic_driver.py JSON

JSON is {"runs": [{"arguments": [...], "ranks": [2, 3, 2]}, ...], "stops": [1, 3]}. A run trains on the first number of ranks
until a rank is asked to stop at the first of the steps, goes on with the next number, and so on; the last trains to the end.
Every rank is a fork of this process, which has imported everything. Which samples a rank took in a step goes to
RUN/samples-PHASE-RANK.json.
"""

import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections import defaultdict

import torch

from engine.config.command_line import load_config
from engine.distributed.deepspeed import _import_deepspeed
from engine.faults.exit_status import DONE, PREEMPTED
from engine.monitoring.hooks import Hook
from engine.training.assembly import Run, assemble
from engine.training.trainer import Trainer
from forking import IMPORTED
from launch.environment import Environment


class StopAt(Hook):
    """Asks this rank to stop after a step."""

    def __init__(self, step: int | None):
        self.step = step

    def on_step(self, run: Run) -> None:
        if run.progress.step == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)


def main(told: dict) -> None:
    torch.set_num_threads(1)
    for name in (*IMPORTED, "torch._inductor.compile_fx"):  # once, not in every rank
        importlib.import_module(name)
    _import_deepspeed(torch.device("cpu"))
    for run in told["runs"]:
        for phase, (ranks, stop) in enumerate(zip(run["ranks"], [*told["stops"][: len(run["ranks"]) - 1], None])):
            train(run["arguments"], phase, ranks, stop)


def train(arguments: list[str], phase: int, ranks: int, stop: int | None) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sys.stdout.flush()
    processes = []
    for rank in range(ranks):
        process = os.fork()
        if process == 0:
            os.environ["LOCAL_RANK"] = str(rank)  # which DeepSpeed asks for
            environment = Environment(rank, ranks, rank, ranks, "127.0.0.1", port, launcher="variables")
            os._exit(one_rank(arguments, environment, phase, stop if rank == ranks - 1 else None))
        processes.append(process)
    statuses = {os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes}
    assert statuses == {DONE if stop is None else PREEMPTED}, (arguments, phase, statuses)


def one_rank(arguments: list[str], environment: Environment, phase: int, stop: int | None) -> int:
    try:
        run = assemble(load_config(arguments), environment, [StopAt(stop)])
        samples = defaultdict(list)
        trainer = Trainer(run)
        next_batch = trainer._next_batch

        def noted(batches):
            batch = next_batch(batches)
            samples[run.progress.step + 1].append(batch.indices.tolist())
            return batch

        trainer._next_batch = noted  # type: ignore[method-assign]
        outcome = trainer.fit()
        (run.directory.path / f"samples-{phase}-{environment.rank}.json").write_text(json.dumps(samples))
        return PREEMPTED if outcome.reason == "preempted" else DONE
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
