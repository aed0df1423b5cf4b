"""What slurm/job.sh says of a job that was asked to stop: in an evaluation, with something new saved or not, before it began."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from runs import assert_same_run, rows
from slurm_cluster import ROOT, Cluster

IMAGENET = ROOT / "slurm" / "imagenet.sbatch"

# Evaluations that last until the test ends them, and say where they are.
SLOW = """
    import time
    from pathlib import Path
    from engine import Hook

    HERE = Path(__file__).parent

    class Slow(Hook):
        def __init__(self):
            from engine.evaluation import evaluator

            evaluate = evaluator.evaluate

            def slowly(score, loader, batch_size, communicator, findings=None, begin_batch=lambda: None):
                while not communicator.from_first((HERE / "hurry").exists):
                    (HERE / "evaluating").touch()
                    begin_batch()
                    time.sleep(0.05)
                return evaluate(score, loader, batch_size, communicator, findings, begin_batch)

            evaluator.evaluate = slowly
"""
LATE = """
    import time
    from pathlib import Path
    from engine import Hook

    HERE = Path(__file__).parent

    class Slow(Hook):
        pass

    while not (HERE / "hurry").exists():
        (HERE / "beginning").touch()
        time.sleep(0.05)
"""


@pytest.fixture
def start(cluster: Cluster, options, tmp_path: Path):
    """``start(hook) -> job``: a job of two nodes with this hook, in ``tmp_path / "run"``."""

    def start(hook: str):
        (tmp_path / "slow.py").write_text(textwrap.dedent(hook))
        arguments = options(tmp_path / "run", hooks="slow:Slow")
        return cluster.sbatch("--nodes=2", IMAGENET, *arguments, PYTHONPATH=str(tmp_path))

    return start


def ask_to_stop(job, mark: Path, restarts: str) -> None:
    """Sends the ranks their signal once they are where `mark` says, and waits until the job was started again."""
    job.wait_until(mark.exists)
    job.cluster.run("scancel", "--signal=USR1", str(job.number))
    job.wait_until(lambda: job.show("Restarts") == restarts)
    mark.unlink(missing_ok=True)


def test_stopped_in_an_evaluation_with_its_epoch_saved_and_again_with_nothing_new(start, quiet, tmp_path):
    job, run = start(SLOW), tmp_path / "run"
    ask_to_stop(job, tmp_path / "evaluating", "1")
    assert "stopped by a signal, after a checkpoint; requeued, to go on from step-000000006.pt" in job.log, job.log
    assert rows(run, "eval") == []
    ask_to_stop(job, tmp_path / "evaluating", "2")  # the same evaluation, made up for, begins anew
    words = "stopped by a signal before there was anything new to save; requeued, to go on from step-000000006.pt"
    assert words in job.log, job.log
    (tmp_path / "hurry").touch()
    assert job.wait() == "COMPLETED", job.log
    assert_same_run(quiet, run)


def test_stopped_before_it_began(start, quiet, tmp_path):
    job = start(LATE)
    ask_to_stop(job, tmp_path / "beginning", "1")
    assert "stopped by a signal before training began; requeued, to go on from the beginning" in job.log, job.log
    (tmp_path / "hurry").touch()
    assert job.wait() == "COMPLETED", job.log
    assert_same_run(quiet, tmp_path / "run")
