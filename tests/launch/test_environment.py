"""Ranks and rendezvous from every launcher's variables, and an error that names the variable for what cannot be."""

from __future__ import annotations

import pytest

from launch.alone import rank_or_alone
from launch.environment import FIRST_PORT, PORTS, Environment, LaunchError, derived_port, detect


def torchrun(rank=0, nodes=1, processes=2, **changes):
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(nodes * processes),
        "LOCAL_RANK": str(rank % processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": str(rank // processes),
        "GROUP_WORLD_SIZE": str(nodes),
        "MASTER_ADDR": "n1" if nodes > 1 else "localhost",
        "MASTER_PORT": "29400",
        "TORCHELASTIC_RUN_ID": "7",
        "TORCHELASTIC_RESTART_COUNT": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    } | changes


def deepspeed(rank=0, nodes=1, processes=2, **changes):
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(nodes * processes),
        "LOCAL_RANK": str(rank % processes),
        "LOCAL_SIZE": str(processes),
        "CROSS_RANK": str(rank // processes),
        "CROSS_SIZE": str(nodes),
        "MASTER_ADDR": "n1" if nodes > 1 else "127.0.0.1",
        "MASTER_PORT": "29500",
    } | changes


def openmpi(rank=0, nodes=1, processes=2, **changes):
    return {
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": str(nodes * processes),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank % processes),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(processes),
        "PMIX_NAMESPACE": "prterun-n1-4242@1",
        "PMIX_RANK": str(rank),
    } | changes


def mpich(rank=0, nodes=1, processes=2, **changes):
    return {
        "PMI_RANK": str(rank),
        "PMI_SIZE": str(nodes * processes),
        "MPI_LOCALRANKID": str(rank % processes),
        "MPI_LOCALNRANKS": str(processes),
        "PMI_FD": "11",
        "MASTER_ADDR": "n1",
        "MASTER_PORT": "20000",
    } | changes


def srun(rank=0, nodes=1, processes=2, **changes):
    return {
        "SLURM_JOB_ID": "41",
        "SLURM_CLUSTER_NAME": "local",
        "SLURM_JOB_NODELIST": f"n[1-{nodes}]" if nodes > 1 else "n1",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank % processes),
        "SLURM_NODEID": str(rank // processes),
        "SLURM_NTASKS": str(nodes * processes),
        "SLURM_STEP_NUM_TASKS": str(nodes * processes),
        "SLURM_STEP_TASKS_PER_NODE": f"{processes}(x{nodes})" if nodes > 1 else str(processes),
        "SLURM_STEP_NODELIST": f"n[1-{nodes}]" if nodes > 1 else "n1",
        "SLURM_STEP_NUM_NODES": str(nodes),
    } | changes


LAUNCHERS = {"torchrun": torchrun, "deepspeed": deepspeed, "openmpi": openmpi, "mpich": mpich, "slurm": srun}


def test_nodes_that_counted_other_restarts_meet_where_each_start_has_its_own_store():
    """A node that came back has counted none; torchrun's agent that keeps its store over restarts counts for all."""
    counted = [torchrun(nodes=2, TORCHELASTIC_RESTART_COUNT=count) for count in ("0", "3")]
    alone = [detect(variables | {"TORCHELASTIC_USE_AGENT_STORE": "False"}).restart for variables in counted]
    assert alone == [0, 0]
    assert [detect(variables).restart for variables in counted] == [0, 3]


def test_no_launcher_is_a_run_of_one_process():
    environment = detect({"PATH": "/bin", "USER": "somebody"})
    assert environment == Environment()
    assert not environment.distributed


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(("nodes", "processes"), [(1, 2), (1, 8), (4, 8), (128, 8)])
def test_every_rank_finds_its_place(launcher, nodes, processes):
    extra = {"MASTER_ADDR": "n1", "MASTER_PORT": "20000"} if launcher in ("openmpi", "mpich") else {}
    found = [detect(LAUNCHERS[launcher](rank, nodes, processes, **extra)) for rank in range(nodes * processes)]
    assert [place.rank for place in found] == list(range(nodes * processes))
    assert {(place.node, place.local_rank) for place in found} == {
        (n, p) for n in range(nodes) for p in range(processes)
    }
    assert {(place.world_size, place.local_world_size, place.launcher) for place in found} == {
        (nodes * processes, processes, launcher)
    }
    assert len({(place.master_address, place.master_port) for place in found}) == 1
    assert found[0].distributed


def test_torchrun_tells_the_restart():
    assert detect(torchrun()).restart == 1


def test_srun_ranks_meet_on_the_first_node_at_a_port_of_their_own():
    first, last = detect(srun(0, nodes=2)), detect(srun(3, nodes=2))
    assert (first.master_address, first.master_port) == ("n1", derived_port("local.41.0"))
    assert (last.master_address, last.master_port) == ("n1", derived_port("local.41.0"))
    assert detect(srun(0, nodes=2, SLURM_STEP_ID="1")).master_port != first.master_port
    assert detect(srun(0, nodes=2, SLURM_CLUSTER_NAME="other")).master_port != first.master_port
    assert FIRST_PORT <= first.master_port < FIRST_PORT + PORTS
    given = detect(srun(0, nodes=2, MASTER_ADDR="10.0.0.1", MASTER_PORT="12345"))
    assert (given.master_address, given.master_port) == ("10.0.0.1", 12345)


def test_srun_on_one_node_meets_on_loopback_and_one_task_needs_no_meeting():
    assert detect(srun(0)).master_address == "127.0.0.1"
    assert not detect(srun(processes=1)).distributed


def test_srun_with_unequal_nodes():
    changes = {"SLURM_STEP_TASKS_PER_NODE": "4,2", "SLURM_STEP_NUM_TASKS": "6", "SLURM_NTASKS": "6"}
    place = detect(srun(5, nodes=2, processes=4, **changes))
    assert (place.local_rank, place.local_world_size, place.node) == (1, 2, 1)


def test_mpirun_on_one_node_derives_its_port_from_its_job():
    assert detect(openmpi()).master_port == derived_port("prterun-n1-4242@1")
    assert detect(openmpi(PMIX_NAMESPACE="prterun-n1-4243@1")).master_port != detect(openmpi()).master_port


def test_mpirun_in_a_slurm_job_meets_on_the_first_node():
    place = detect(openmpi(3, nodes=2, SLURM_JOB_ID="9", SLURM_JOB_NODELIST="gpu[3-4]"))
    assert place.master_address == "gpu3"
    # The daemons of mpirun are tasks of an srun step, which is none of the ranks' business.
    assert detect(openmpi(3, nodes=2, SLURM_STEP_NUM_TASKS="1", SLURM_JOB_NODELIST="gpu[3-4]")).rank == 3


def test_one_torchrun_a_node_under_srun_is_one_run():
    inner = torchrun(11, nodes=2, processes=8)
    place = detect(srun(1, nodes=2, processes=1) | inner)
    assert (place.launcher, place.rank, place.world_size) == ("torchrun", 11, 16)


def test_variables_set_by_hand_that_agree_with_srun_are_taken():
    by_hand = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "n1"}
    place = detect(srun(1, nodes=2) | by_hand | {"MASTER_PORT": "20000"})
    assert (place.launcher, place.rank) == ("variables", 1)


def without(variables, *names):
    return {name: value for name, value in variables.items() if name not in names}


WRONG = {
    "half of torchrun": (without(torchrun(), "MASTER_PORT", "LOCAL_RANK"), "LOCAL_RANK, MASTER_PORT"),
    "only a local rank": ({"LOCAL_RANK": "1"}, "LOCAL_RANK"),
    "not a number": (torchrun(RANK="one"), "RANK='one'"),
    "rank too high": (torchrun(RANK="2"), "RANK=2"),
    "local rank too high": (srun(0, SLURM_LOCALID="2"), "SLURM_LOCALID=2"),
    "more here than anywhere": (torchrun(LOCAL_WORLD_SIZE="3"), "LOCAL_WORLD_SIZE=3 exceeds WORLD_SIZE=2"),
    "no port": (torchrun(MASTER_PORT="70000"), "MASTER_PORT=70000"),
    "localhost for several nodes": (torchrun(nodes=4, MASTER_ADDR="localhost"), "MASTER_ADDR=localhost"),
    "loopback for several nodes": (deepspeed(nodes=2, MASTER_ADDR="127.0.1.1"), "MASTER_ADDR=127.0.1.1"),
    "loopback in IPv6": (srun(nodes=2, MASTER_ADDR="::1"), "MASTER_ADDR=::1"),
    "localhost for several nodes of MPI": (mpich(nodes=2, MASTER_ADDR="localhost.localdomain"), "MASTER_ADDR"),
    "MPI on several nodes without a master": (openmpi(nodes=2), "MASTER_ADDR is not set"),
    "MPICH without a port": (without(mpich(), "MASTER_PORT"), "MASTER_PORT is not set"),
    "half of OpenMPI": (without(openmpi(), "OMPI_COMM_WORLD_LOCAL_RANK"), "OMPI_COMM_WORLD_LOCAL_RANK"),
    "half of srun": (without(srun(), "SLURM_PROCID"), "SLURM_PROCID"),
    "PMI against SLURM": (srun(1, PMI_RANK="0", PMI_SIZE="2"), "PMI_RANK=0 disagrees with SLURM_PROCID=1"),
    "PMI alone": ({"PMI_RANK": "0", "PMI_SIZE": "2"}, "PMI_RANK"),
    "a node that is not in the list": (srun(0, SLURM_NODEID="3"), "SLURM_NODEID=3"),
    "no list of tasks": (srun(0, SLURM_STEP_TASKS_PER_NODE="two"), "SLURM_STEP_TASKS_PER_NODE"),
    "no list of nodes": (srun(0, nodes=2, SLURM_STEP_NODELIST="n[1-"), "SLURM_STEP_NODELIST"),
    "eight torchruns that are one node each": (
        srun(0, nodes=1, processes=8) | torchrun(0, nodes=1, processes=8),
        "GROUP_WORLD_SIZE=1 disagrees with SLURM_STEP_NUM_TASKS=8",
    ),
    "two deepspeeds under mpirun": (openmpi(0) | deepspeed(0), "CROSS_SIZE=1 disagrees with OMPI_COMM_WORLD_SIZE=2"),
    "a rank by hand that is not srun's": (
        srun(1) | without(torchrun(0), "TORCHELASTIC_RUN_ID"),
        "RANK=0 disagrees with SLURM_PROCID=1",
    ),
    "a batch script of many tasks without srun": ({"SLURM_JOB_ID": "9", "SLURM_NTASKS": "8"}, "SLURM_NTASKS=8"),
    "a shell in an allocation of many tasks": (srun(processes=1, SLURM_NTASKS="8"), "SLURM_NTASKS=8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_an_error_that_names_the_variable(case):
    variables, named = WRONG[case]
    with pytest.raises(LaunchError) as caught:
        detect(variables)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


KUBERNETES = {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_JOB_ID": "9", "SLURM_NTASKS": "8"},
        srun(processes=1, SLURM_NTASKS="8"),
        KUBERNETES,
        KUBERNETES | {"RANK": "0", "WORLD_SIZE": "1"},
    ],
    ids=["a shell of a batch job", "a shell of srun", "a pod", "a pod alone"],
)
def test_a_program_that_one_process_can_run_does_so_in_the_middle_of_a_cluster(variables, capsys):
    assert rank_or_alone(variables) == Environment()
    assert capsys.readouterr().err.startswith("note: this process works alone")


def test_a_rank_is_a_rank_for_such_a_program_too(capsys):
    assert rank_or_alone(torchrun(1)).rank == 1
    assert rank_or_alone({}) == Environment()
    assert capsys.readouterr().err == ""
    for variables in (without(torchrun(1), "MASTER_PORT"), srun(1, PMI_RANK="0", PMI_SIZE="2")):
        with pytest.raises(LaunchError):
            rank_or_alone(variables)
