"""slurm/imagenet.sbatch on a real SLURM of two nodes: trains as torchrun does, and loses nothing when it is interrupted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runs import assert_same_run, rows
from slurm_cluster import ROOT

pytestmark = pytest.mark.xdist_group("slurm")
IMAGENET = ROOT / "slurm" / "imagenet.sbatch"


def freeze_in_mid_epoch(job, run: Path, step: int) -> None:
    """Stops the ranks once the run has recorded `step`; fails if that was too late."""
    job.wait_until(lambda: any(row["step"] >= step for row in rows(run)))
    assert len(job.freeze()) == 2
    assert rows(run)[-1]["step"] < 18


def test_two_nodes_train_to_the_losses_of_two_ranks_under_torchrun(cluster, quiet, options, torchrun, tmp_path):
    done = torchrun(["engine/train.py", *options(tmp_path / "run")], processes=2)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(quiet)] == list(range(1, 19))
    assert len(rows(quiet, "eval")) == 3
    assert_same_run(quiet, tmp_path / "run")
    assert sorted(path.name.split("-")[-1] for path in (quiet / "logs").glob("*.log")) == ["n1.log", "n2.log"]


def test_requeued_in_mid_epoch_ends_bit_identical(cluster, quiet, options, tmp_path):
    run = tmp_path / "run"
    job = cluster.sbatch("--nodes=2", IMAGENET, *options(run))
    freeze_in_mid_epoch(job, run, step=8)
    cluster.run("scontrol", "requeue", str(job.number))
    assert job.wait() == "COMPLETED", job.log
    assert job.show("Restarts") == "1"
    assert_same_run(quiet, run)


def test_the_signal_before_the_time_limit_requeues_and_ends_bit_identical(cluster, quiet, options, tmp_path):
    run = tmp_path / "run"
    job = cluster.sbatch("--nodes=2", "--signal=USR1@50", IMAGENET, *options(run))
    freeze_in_mid_epoch(job, run, step=8)
    # The limit comes now, 60 to 120 s from here, so that a slow start does not matter, and 50 s after the signal, so that a
    # slow end does not. SLURM looks every half minute.
    job.cluster.run("scontrol", "update", f"JobId={job.number}", f"TimeLimit={(job.seconds + 60) // 60 + 1}")
    job.wait_until(lambda: job.show("Restarts") == "1")
    job.cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    assert job.wait() == "COMPLETED", job.log
    assert job.show("Restarts") == "1"
    # The ranks, which SLURM wakes to hear its signal, save at their next vote: in mid-epoch, or at the end of one (step 12).
    assert re.search(r"after a checkpoint; requeued, to go on from step-0000000(08|09|1\d)", job.log), job.log
    assert_same_run(quiet, run)
