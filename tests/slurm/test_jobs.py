"""The other batch scripts, and what slurm/imagenet.sbatch does beyond training: prepared bytes, scaling, arrays, staging."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from pathlib import Path

import pytest

from runs import rows
from slurm_cluster import ROOT, Cluster
from tiny import make_tiny_dataset


def contents(folder: Path) -> dict[str, str]:
    """A dataset's files and their hashes, without the index, a cache that knows where it is."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".index" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_prepare_over_two_nodes_gives_the_bytes_of_one_process(cluster, run_command, tmp_path):
    data = make_tiny_dataset(tmp_path / "data")
    options = ["folder", data, "--to", "shards", "--shard-size", "20K", "--quality", "80", "--output"]
    job = cluster.sbatch("--nodes=2", ROOT / "slurm" / "prepare.sbatch", *options, tmp_path / "two")
    alone = run_command(["pipelines/prepare.py", *options, tmp_path / "one", "--workers", "1"])
    assert alone.returncode == 0, alone.stderr
    assert job.wait() == "COMPLETED", job.log
    assert "2 ranks, 1 a node" in job.log
    assert len(contents(tmp_path / "one")) > 4
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_throughput_ends_with_one_table_and_picture(cluster, tmp_path):
    options = ["--network", "debug", "--batch-size", "8", "--windows", "2", "--seconds", "0.1"]
    job = cluster.sbatch("--nodes=2", ROOT / "slurm" / "throughput.sbatch", *options, "--output", tmp_path / "out")
    assert job.wait() == "COMPLETED", job.log
    lines = [[cell.strip() for cell in line.split("|")[1:5]] for line in job.log.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        ["weak", "1", "1", "8"],
        ["weak", "2", "2", "8"],
        ["strong", "1", "1", "8"],
        ["strong", "2", "2", "4"],
    ]
    assert (tmp_path / "out" / "scaling.png").stat().st_size > 5000


def test_a_job_array_trains_a_seed_each_on_data_staged_to_the_node(cluster, options, tmp_path):
    stage = tmp_path / "nvme"
    arguments = options(tmp_path / "unused", schedule__epochs=1)
    place = arguments.index("--run.dir")
    del arguments[place : place + 2]
    job = cluster.sbatch("--array=3-4", ROOT / "slurm" / "imagenet.sbatch", *arguments, STAGE_DIR=str(stage))
    tasks = [cluster.folder / "runs" / f"imagenet-{job.number}" / str(seed) for seed in (3, 4)]
    cluster.wait_for_all()
    assert [len(rows(run)) for run in tasks] == [6, 6], [
        path.read_text() for path in cluster.folder.glob("imagenet-*.log")
    ]
    assert [row["loss"] for row in rows(tasks[0])] != [row["loss"] for row in rows(tasks[1])]
    assert [f"seed: {seed}" in (run / "config.yaml").read_text() for seed, run in zip((3, 4), tasks)] == [True, True]
    assert len(contents(stage)) > 96
    assert all(f"path: {stage}" in (run / "config.yaml").read_text() for run in tasks)


def test_names_with_spaces_lead_to_the_repository_and_from_a_sweep_s_line(cluster, options, tmp_path):
    repository = tmp_path / "the repository"
    repository.symlink_to(ROOT)
    sweep = tmp_path / "a sweep"
    run = tmp_path / "run of 'one' epoch"
    sweep.write_text(f'--run.seed 7 --schedule.epochs 1 --run.dir "{run}"\r\n')
    arguments = options(tmp_path / "unused")
    place = arguments.index("--run.dir")
    del arguments[place : place + 2]
    job = cluster.sbatch("--array=1", repository / "slurm" / "imagenet.sbatch", *arguments, SWEEP=str(sweep))
    assert job.wait() == "COMPLETED", job.log
    assert len(rows(run)) == 6
    assert "seed: 7" in (run / "config.yaml").read_text()


@pytest.fixture
def unequal(warm_python, tmp_path):
    """A cluster whose first node has 2 cores and GPUs, its second 4 cores and 3 GPUs; the GPUs are devices of other use."""
    found = Cluster(Path(f"/tmp/slurm-tests-{os.getpid()}-u"), tmp_path)
    found.env["INCEPTION_PYTHON"] = warm_python
    try:
        found.script("start")
        configuration = found.directory / "slurm.conf"
        nodes = re.search(r"NodeName=n\[1-2\] (.*) Port=\[(\d+)-(\d+)\] CPUs=\d+ (.*)", configuration.read_text())
        lines = ["GresTypes=gpu"]
        for name, port, cores, gpus in (("n1", nodes[2], 2, 2), ("n2", nodes[3], 4, 3)):
            lines.append(f"NodeName={name} {nodes[1]} Port={port} CPUs={cores} {nodes[4]} Gres=gpu:{gpus}")
        configuration.write_text(configuration.read_text().replace(nodes[0], "\n".join(lines)))
        devices = ["NodeName=n1 Name=gpu File=/dev/tty[1-2]", "NodeName=n2 Name=gpu File=/dev/tty[3-5]"]
        (found.directory / "gres.conf").write_text("\n".join(devices) + "\n")
        for name in ("n1", "n2"):
            found.script("lose", name)
        os.kill(found.daemon("slurmctld"), signal.SIGKILL)
        path = {"PATH": f"{found.env['PATH']}:/usr/sbin"}
        found.run("bash", "-c", "slurmctld -c -i >/dev/null 2>&1 </dev/null", **path)
        for name in ("n1", "n2"):
            found.script("restore", name)
        yield found
    finally:
        found.script("stop")


def test_each_node_has_as_many_ranks_as_gpus_or_cores_of_its_own(unequal, options, tmp_path):
    run, data = tmp_path / "run", make_tiny_dataset(tmp_path / "data")
    prepare = [ROOT / "slurm" / "prepare.sbatch", "folder", data, "--to", "shards", "--output", tmp_path / "shards"]
    prepared = unequal.sbatch("--nodes=2", *prepare)
    assert prepared.wait() == "COMPLETED", prepared.log
    assert "6 ranks, n1:2,n2:4" in prepared.log
    arguments = options(run, schedule__epochs=1, device="cpu", data__global_batch_size=15, data__batch_size=3)
    job = unequal.sbatch("--nodes=2", "--gpus=5", ROOT / "slurm" / "imagenet.sbatch", *arguments)
    assert job.wait() == "COMPLETED", job.log
    assert "5 ranks, n1 2,n2 3" in job.log
    assert len(rows(run)) == 6


def test_nodes_are_looked_at_before_a_run_where_that_is_asked_for(cluster, options, tmp_path):
    run = tmp_path / "run"
    arguments = options(run, schedule__epochs=1)
    job = cluster.sbatch("--nodes=2", ROOT / "slurm" / "imagenet.sbatch", *arguments, PREFLIGHT="1")
    assert job.wait() == "COMPLETED", job.log
    report = (run / "preflight" / "report.txt").read_text()
    assert report in job.log
    assert [line.split(": ")[0] for line in report.splitlines()[:2]] == ["n1", "n2"]
    assert "all-reduce between nodes" in report
    assert len(rows(run)) == 6
