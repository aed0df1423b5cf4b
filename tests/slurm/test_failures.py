"""What can go wrong with a job: a node lost in mid-epoch costs the time since the last checkpoint, and what cannot work
ends with one line that says why.
"""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

from runs import assert_same_run, rows
from slurm_cluster import ROOT, Job

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


def test_a_signal_to_the_batch_script_alone_is_passed_on_and_requeues(cluster, options, tmp_path):
    """As with `sbatch --signal=B:USR1@300`."""
    run = tmp_path / "run"
    job = cluster.sbatch("--nodes=2", IMAGENET, *options(run, schedule__epochs=300))
    job.wait_until(lambda: len(rows(run)) > 2)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job.number))
    job.wait_until(lambda: job.show("Restarts") == "1")
    assert "after a checkpoint; requeued, to go on from step-" in job.log
    assert newest_step(run) > 2


def test_the_task_that_bears_the_number_of_its_array_is_requeued_alone(cluster, options, tmp_path):
    arguments = [*options(tmp_path / "unused", schedule__epochs=300)]
    place = arguments.index("--run.dir")
    del arguments[place : place + 2]
    array = cluster.sbatch("--array=1-2", IMAGENET, *arguments)
    tasks = {number: Job(cluster, f"{array.number}_{number}") for number in (1, 2)}
    for number, task in tasks.items():
        run = cluster.folder / "runs" / f"imagenet-{array.number}" / str(number)
        task.wait_until(lambda run=run: len(rows(run)) > 2)
    last = next(task for task in tasks.values() if task.show("JobId") == str(array.number))
    cluster.run("scancel", "--batch", "--signal=USR1", str(last.number))
    last.wait_until(lambda: last.show("Restarts") == "1")
    assert sorted(task.show("Restarts") for task in tasks.values()) == ["0", "1"]


CRASHES = """
import os
from engine.monitoring.hooks import Hook

class OnNode1(Hook):
    def on_step(self, run):
        starts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if os.environ["SLURMD_NODENAME"] == "n1" and run.progress.step >= 4 * (starts + 1):
            raise RuntimeError("a fault of the machine")

class AtOnce(Hook):
    def on_step(self, run):
        raise RuntimeError("a fault of the program")
"""


def test_a_crash_is_requeued_and_a_node_that_fails_twice_is_left_out(cluster, options, tmp_path):
    (tmp_path / "crashes.py").write_text(CRASHES)
    run, path = tmp_path / "run", {"PYTHONPATH": f"{tmp_path}:{cluster.env.get('PYTHONPATH', '')}"}
    arguments = options(run, checkpoint__every_seconds=0.01, hooks="crashes:OnNode1")
    job = cluster.sbatch("--nodes=1", IMAGENET, *arguments, "--requeue-on-failure", "3", **path)
    assert job.wait() == "COMPLETED", job.log
    assert (job.show("Restarts"), job.show("ExcNodeList")) == ("2", "n1")
    assert "node n1 was twice the first to fail" in job.log
    assert len({row["step"] for row in rows(run)}) == 18


def test_a_crash_that_left_no_newer_checkpoint_is_not_requeued(cluster, options, tmp_path):
    (tmp_path / "crashes.py").write_text(CRASHES)
    path = {"PYTHONPATH": f"{tmp_path}:{cluster.env.get('PYTHONPATH', '')}"}
    arguments = options(tmp_path / "run", hooks="crashes:AtOnce")
    job = cluster.sbatch("--nodes=1", IMAGENET, "--requeue-on-failure=3", *arguments, **path)
    assert job.wait() == "FAILED", job.log
    assert job.show("Restarts") == "0"
    assert "not requeued: failed with no newer checkpoint" in job.log
    assert "a fault of the program" in job.log


def test_a_job_that_fails_is_requeued_so_many_times_at_most(run_command, tmp_path):
    """Its own failures alone count, not those of other jobs that went on in the same run directory."""
    (tmp_path / "failures").write_text("6 n1 1\n6 n1 1\n")
    script = f"""
        say() {{ echo "$*"; }}
        source {shlex.quote(str(ROOT))}/slurm/ending.sh
        newest_checkpoint() {{ echo "step-$RANDOM"; }}
        requeue() {{ say "$1, without '$exclude'"; }}
        job=7 requeues_on_failure=2 checkpoint_before="" run_directory={shlex.quote(str(tmp_path))}
        for node in n1 n2 n3; do requeue_failure 1 "$node"; done
        """
    done = run_command(["bash", "-c", script])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "failed with status 1 on node n1 (failure 1 of at most 2), without ''",
        "failed with status 1 on node n2 (failure 2 of at most 2), without ''",
        "not requeued: failed 3 times, --requeue-on-failure 2",
    ]


def test_staging_without_a_dataset_is_one_line(cluster):
    arguments = ["--recipe", "sample"]
    (line,) = fails_at_once(cluster.sbatch(IMAGENET, *arguments, STAGE_DIR="/nowhere"))
    assert "STAGE_DIR" in line
    assert "--data.path" in line


def test_a_quote_that_is_not_closed_is_one_line(cluster, tmp_path):
    (tmp_path / "sweep").write_text('--run.dir "half\n')
    (line,) = fails_at_once(cluster.sbatch("--array=1", IMAGENET, SWEEP=str(tmp_path / "sweep")))
    assert "line 1: a quote is not closed" in line
