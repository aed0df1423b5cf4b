"""slurm/imagenet.sbatch on a real SLURM of two nodes: trains as torchrun does, and loses nothing when it is interrupted."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from runs import assert_same_run, rows
from slurm_cluster import ROOT, Cluster, Job

IMAGENET = ROOT / "slurm" / "imagenet.sbatch"


# Ranks that stay in the second of the second epoch's six steps until they are asked to stop, which they hear at once; when
# they are started again they do not.
HOLD = """
    import os
    import time
    from engine import Hook
    from engine.distributed import process_group

    class Hold(Hook):
        def __init__(self):
            process_group.VOTE_SECONDS = 0

        def on_step(self, run):
            first = os.environ.get("SLURM_RESTART_COUNT", "0") == "0"
            while first and run.progress.step == 8 and not run.stop.requested:
                time.sleep(0.05)
"""


@pytest.fixture
def held(cluster: Cluster, options, tmp_path: Path):
    """``held(*arguments of sbatch) -> job``: one of two nodes in ``tmp_path / "run"`` that is held in mid-epoch."""

    def start(*arguments: str) -> Job:
        (tmp_path / "hold.py").write_text(textwrap.dedent(HOLD))
        run = tmp_path / "run"
        job = cluster.sbatch(
            "--nodes=2", *arguments, IMAGENET, *options(run, hooks="hold:Hold"), PYTHONPATH=str(tmp_path)
        )
        job.wait_until(lambda: any(row["step"] == 7 for row in rows(run)))
        return job

    return start


def test_two_nodes_train_to_the_losses_of_two_ranks_under_torchrun(cluster, quiet, options, torchrun, tmp_path):
    done = torchrun(["engine/train.py", *options(tmp_path / "run")], processes=2)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(quiet)] == list(range(1, 19))
    assert len(rows(quiet, "eval")) == 3
    assert_same_run(quiet, tmp_path / "run")
    assert sorted(path.name.split("-")[-1] for path in (quiet / "logs").glob("*.log")) == ["n1.log", "n2.log"]


def test_requeued_in_mid_epoch_ends_bit_identical(cluster, quiet, held, tmp_path):
    job = held()
    assert len(job.freeze()) == 2  # so that they end where they are
    cluster.run("scontrol", "requeue", str(job.number))
    assert job.wait() == "COMPLETED", job.log
    assert job.show("Restarts") == "1"
    assert_same_run(quiet, tmp_path / "run")


def test_the_signal_before_the_time_limit_requeues_and_ends_bit_identical(quiet, held, tmp_path):
    job = held("--signal=USR1@50")
    # The limit comes now, 60 to 120 s from here, so that a slow start does not matter, and 50 s after the signal, so that a
    # slow end does not. SLURM looks every half minute.
    job.cluster.run("scontrol", "update", f"JobId={job.number}", f"TimeLimit={(job.seconds + 60) // 60 + 1}")
    job.wait_until(lambda: job.show("Restarts") == "1")
    job.cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    assert job.wait() == "COMPLETED", job.log
    assert job.show("Restarts") == "1"
    assert re.search(r"after a checkpoint; requeued, to go on from step-0000000(08|09|10|11)\.", job.log), job.log
    assert_same_run(quiet, tmp_path / "run")
