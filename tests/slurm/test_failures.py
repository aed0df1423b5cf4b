"""What can go wrong with a job: a node lost in mid-epoch costs the time since the last checkpoint, and what cannot work
ends with one line that says why.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from runs import assert_same_run, rows
from slurm_cluster import ROOT

pytestmark = pytest.mark.xdist_group("slurm")
IMAGENET = ROOT / "slurm" / "imagenet.sbatch"


def test_a_node_lost_in_mid_epoch_costs_the_time_since_the_last_checkpoint(cluster, quiet, options, tmp_path):
    run = tmp_path / "run"
    job = cluster.sbatch("--nodes=2", IMAGENET, *options(run, checkpoint__every_seconds=0.05))
    job.wait_until(lambda: any(row["step"] >= 8 for row in rows(run)))
    ranks = job.freeze()
    saved = newest_step(run)
    assert saved >= 2
    cluster.script("lose", "n2")
    for pid in filter(lambda pid: Path(f"/proc/{pid}").exists(), ranks):
        os.kill(pid, signal.SIGCONT)
    # Either SLURM misses the node first, or the job does, whose other rank lost its partner; it waits for two nodes.
    job.wait_until(lambda: job.state == "PENDING")
    assert saved <= newest_step(run) <= saved + 2  # n1 ended the step it was in
    cluster.script("restore", "n2")
    assert job.wait() == "COMPLETED", job.log
    assert_same_run(quiet, run)


def newest_step(run: Path) -> int:
    return max((int(path.stem.split("-")[1]) for path in (run / "checkpoints").glob("step-*.pt")), default=0)


def fails_at_once(job) -> list[str]:
    """The error lines of a job that fails and is not tried again."""
    assert job.wait() == "FAILED", job.log
    assert job.show("Restarts") == "0"
    assert "Traceback" not in job.log
    lines = [line for line in job.log.splitlines() if line.startswith("error: ")]
    assert lines, job.log
    return lines


def test_a_wrong_path_is_one_line(cluster, options, tmp_path):
    arguments = options(tmp_path / "run", data__path="/data/nowhere")
    (line,) = fails_at_once(cluster.sbatch("--nodes=2", IMAGENET, *arguments))
    assert "/data/nowhere" in line


def test_a_recipe_that_does_not_exist_is_one_line(cluster):
    (line,) = fails_at_once(
        cluster.sbatch("--nodes=2", IMAGENET, "--recipe", "imagenet_inception_v9", "--data.path", "/")
    )
    assert "imagenet_inception_v9" in line


def test_no_data_is_one_line(cluster):
    (line,) = fails_at_once(cluster.sbatch("--nodes=2", IMAGENET))
    assert "IMAGENET_DIR" in line


def test_a_node_without_the_environment_is_named(cluster, options, tmp_path):
    # An environment module that was loaded on n1 only: there the interpreter is on the path.
    python = tmp_path / "trainpython"
    python.write_text(f'#!/bin/sh\nexec {cluster.env["INCEPTION_PYTHON"]} "$@"\n')
    python.chmod(0o755)
    with cluster.other_environment("n2", PATH="/usr/bin:/bin"):
        job = cluster.sbatch(
            "--nodes=2",
            IMAGENET,
            *options(tmp_path / "run"),
            INCEPTION_PYTHON="trainpython",
            PATH=f"{tmp_path}:{cluster.env['PATH']}",
        )
        (line,) = fails_at_once(job)
    assert "node n2" in line
    assert "launch/setup.sh" in line


def test_a_cancelled_job_stays_cancelled_and_keeps_its_checkpoint(cluster, options, tmp_path):
    run = tmp_path / "run"
    job = cluster.sbatch("--nodes=2", IMAGENET, *options(run, schedule__epochs=300))
    job.wait_until(lambda: len(rows(run)) > 2)
    cluster.run("scancel", str(job.number))
    assert job.wait() == "CANCELLED"
    cluster.wait_for_all()
    assert job.state == "CANCELLED"
    assert newest_step(run) > 0
