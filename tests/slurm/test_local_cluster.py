"""slurm/local_cluster.sh: several at once, nothing left behind, and a clear refusal where it cannot work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from slurm_cluster import LOCAL_CLUSTER, ROOT, Cluster


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another cluster, of three nodes, beside that of the session."""
    found = Cluster(Path(f"/tmp/slurm-tests-{os.getpid()}-b"), tmp_path_factory.mktemp("second"))
    found.script("start", "--nodes", "3")
    yield found
    found.script("stop")


def processes_of(directory: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory) in (process / "environ").read_text(errors="replace") + (process / "cmdline").read_text():
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue
    return found


def test_a_job_runs_on_every_node(cluster):
    said = cluster.run("srun", "-N2", "bash", "-c", "echo $SLURM_PROCID $SLURMD_NODENAME")
    assert sorted(said.split("\n")) == ["", "0 n1", "1 n2"]


def test_decode_threads_of_srun_s_ranks_add_up_to_the_cores(cluster, tmp_path):
    """Both nodes are one machine here, which is to have 105 cores."""
    driver = ROOT / "tests" / "support" / "cores_of_rank.py"
    rank = [cluster.env["INCEPTION_PYTHON"], ROOT / "launch" / "rank.py", driver, tmp_path, "105"]
    meeting = {"MASTER_ADDR": cluster.run("hostname", "--all-ip-addresses").split()[0]}
    cluster.run("srun", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", *rank, **meeting)
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("slurm-*.json"))]
    assert [place["shared"] for place in found] == [53, 52]
    assert [place["bound"] for place in found] == [52, 53]


def test_two_clusters_know_nothing_of_each_other(cluster, second):
    assert "n3" in second.script("status")
    assert "n3" not in cluster.script("status")
    said = second.run("srun", "-N3", "bash", "-c", "echo $SLURMD_NODENAME")
    assert sorted(said.split()) == ["n1", "n2", "n3"]


def test_env_points_a_shell_at_it(second):
    exports = second.script("env", "--directory", str(second.directory))
    assert second.run("bash", "-c", f"{exports.strip()}; sinfo --noheader --Node --format=%N").split() == [
        "n1",
        "n2",
        "n3",
    ]


def test_it_refuses_what_cannot_work(cluster, tmp_path):
    def refusal(*arguments: str, **env: str) -> str:
        said = cluster.run("bash", LOCAL_CLUSTER, *arguments, check=False, **env)
        assert said.count("\n") == 1, said
        assert said.startswith("error: ")
        return said

    assert "runs in" in refusal("start")
    assert "say what to do" in refusal("strat")
    assert "--nodes needs a number" in refusal("start", "--nodes", "many")
    (tmp_path / "somebody's").write_text("")
    assert "is not empty" in refusal("start", "--directory", str(tmp_path))
    assert "too long" in refusal("start", "--directory", f"/tmp/{'x' * 90}")
    assert "no cluster runs" in refusal("env", "--directory", str(tmp_path / "none"))
    assert "no node 'n9'" in refusal("lose", "n9")


def test_status_is_3_without_a_cluster(run_command, tmp_path):
    done = run_command(["bash", LOCAL_CLUSTER, "status", "--directory", tmp_path / "none"])
    assert done.returncode == 3
    assert "no cluster" in done.stdout


def test_a_controller_that_hands_over_to_another_process_runs_all_the_while(second, start_command):
    """Told to read its configuration again, a newer one does so; its file names no process for a moment."""
    file = second.directory / "slurmctld.pid"
    number = file.read_text()
    file.unlink()
    try:
        job = start_command(["bash", LOCAL_CLUSTER, "status"], env=second.env)
        job.wait_until(lambda: "sleep" in children(job.pid))
    finally:
        file.write_text(number)
    done = job.wait()
    assert done.returncode == 0, done.stdout
    assert "n3" in done.stdout


def children(pid: int) -> list[str]:
    numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [comm.read_text().strip() for number in numbers if (comm := Path(f"/proc/{number}/comm")).exists()]


def test_a_lost_node_comes_back_without_its_job_which_is_requeued(second):
    job = second.sbatch("--nodelist=n3", "--requeue", "--wrap", "sleep 100000")
    job.wait_until(lambda: job.state == "RUNNING")
    second.script("lose", "n3")
    second.script("restore", "n3")
    job.wait_until(lambda: job.show("Restarts") == "1")
    second.run("scancel", str(job.number))
    assert second.run("srun", "-w", "n3", "bash", "-c", "echo $SLURMD_NODENAME").split() == ["n3"]


def test_stop_ends_jobs_and_leaves_nothing(cluster, second):
    assert {"munged", "slurmctld", "slurmd"} <= set(processes_of(second.directory))
    job = second.sbatch("--wrap", "srun -N2 sleep 100000", "--nodes=2")
    job.wait_until(lambda: job.state == "RUNNING")
    second.script("stop")
    assert not second.directory.exists()
    assert processes_of(second.directory) == []
    assert "n1" in cluster.script("status")
