"""Who am I among the processes of this run: ranks and rendezvous, read from what the launcher exported.

`detect()` is the only place that reads those variables. It understands torchrun, DeepSpeed's launcher, mpirun of OpenMPI
and MPICH, and srun of SLURM; with none of them the process is a run of its own. Half a set of variables, two launchers
that disagree, or a rendezvous that other nodes cannot reach is an error, never a silent run of one.
"""

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from launch.addresses import is_loopback
from launch.hostlist import expand_nodes, expand_tasks

# Below the ports that Linux hands out to outgoing connections, so that a derived one is free unless somebody chose it.
FIRST_PORT, PORTS = 15000, 15000


class LaunchError(ValueError):
    """The launcher's variables are missing, malformed or contradict each other; the message is one line."""


@dataclass(frozen=True)
class Environment:
    """A process's place in the run.

    `rank` counts over all nodes, `local_rank` on this node, `node` the nodes; `restart` counts torchrun's restarts of
    the workers where one store outlives them: elsewhere each start has a store of its own, and a node that came later has counted
    fewer. `launcher` is what started the run: none, torchrun, deepspeed, openmpi, mpich, slurm or variables
    (set by hand). `agent_store`: torchrun's agent keeps a key-value store at the rendezvous already.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    master_address: str = "127.0.0.1"
    master_port: int = 0
    restart: int = 0
    node: int = 0
    launcher: str = "none"
    agent_store: bool = False

    @property
    def distributed(self) -> bool:
        """Whether the run has a rendezvous, also when torchrun starts one process only."""
        return self.master_port > 0

    @property
    def hosts_store(self) -> bool:
        """Whether this rank keeps the key-value store by which the ranks meet: the first, where no agent does."""
        return self.distributed and self.rank == 0 and not self.agent_store


def detect(variables: Mapping[str, str] = os.environ) -> Environment:
    """Reads this process's place from `variables`. Raises LaunchError naming the variable that is wrong."""
    if "RANK" in variables or "WORLD_SIZE" in variables:
        environment = _from_torch_variables(variables)
        _check_against_outer(environment, variables)
    elif "OMPI_COMM_WORLD_SIZE" in variables:
        environment = _from_openmpi(variables)
    elif "MPI_LOCALNRANKS" in variables:
        environment = _from_mpich(variables)
    elif "SLURM_STEP_NUM_TASKS" in variables:
        environment = _from_slurm(variables)
    else:
        _check_left_alone(variables)
        environment = Environment()
    _check(environment, variables)
    return environment


# ---- one reader for each launcher ------------------------------------------------------------------------------------


# What a launcher calls rank, world size, local rank and local world size.
_TORCH_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_NAMES = {
    "deepspeed": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE"),
    "openmpi": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpich": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}


def _from_torch_variables(variables: Mapping[str, str]) -> Environment:
    """torchrun, DeepSpeed's launcher (which calls LOCAL_WORLD_SIZE LOCAL_SIZE), or a script that sets the same by hand."""
    names = _NAMES["deepspeed"] if "CROSS_SIZE" in variables else _TORCH_NAMES
    wanted = (*names, "MASTER_ADDR", "MASTER_PORT")
    present = [name for name in wanted if name in variables]
    missing = [name for name in wanted if name not in variables]
    if missing:
        raise LaunchError(
            f"{present[0]} is set but {', '.join(missing)} is not: start the run with torchrun, or unset {present[0]}"
        )
    rank, world_size, local_rank, local_world_size = (_number(variables, name) for name in names)
    if "CROSS_SIZE" in variables:
        launcher, node = "deepspeed", _number(variables, "CROSS_RANK")
    elif "TORCHELASTIC_RUN_ID" in variables:
        launcher, node = "torchrun", _number(variables, "GROUP_RANK", default=0)
    else:
        launcher, node = "variables", rank // max(1, local_world_size)
    agent_store = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Environment(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        master_address=variables["MASTER_ADDR"].strip("[]"),
        master_port=_number(variables, "MASTER_PORT"),
        restart=_number(variables, "TORCHELASTIC_RESTART_COUNT", default=0) if agent_store else 0,
        node=node,
        launcher=launcher,
        agent_store=agent_store,
    )


def _from_openmpi(variables: Mapping[str, str]) -> Environment:
    """OpenMPI's mpirun, 4 and 5."""
    job = variables.get("PMIX_NAMESPACE") or variables.get("OMPI_MCA_ess_base_jobid", "")
    return _from_mpi("openmpi", job, variables)


def _from_mpich(variables: Mapping[str, str]) -> Environment:
    """Hydra, the mpiexec of MPICH and its descendants (Intel MPI, MVAPICH)."""
    return _from_mpi("mpich", "", variables)


def _from_mpi(launcher: str, job: str, variables: Mapping[str, str]) -> Environment:
    names = _NAMES[launcher]
    missing = [name for name in names if name not in variables]
    if missing:
        raise LaunchError(f"{launcher} started this process, but {', '.join(missing)} is not set: use its own mpirun")
    rank, world_size, local_rank, local_world_size = (_number(variables, name) for name in names)
    if world_size > local_world_size and "MASTER_ADDR" not in variables and "SLURM_JOB_NODELIST" not in variables:
        raise LaunchError(
            f"MASTER_ADDR is not set, and mpirun does not say which node is the first of several: start the run with "
            f"launch/mpirun.sh, or set MASTER_ADDR and pass it on to every rank ({names[1]}={world_size})"
        )
    address, port = _rendezvous(variables, world_size, local_world_size, "SLURM_JOB_NODELIST", job)
    # launch/mpirun.sh fills the nodes in order of rank, each with as many ranks.
    node = rank // max(1, local_world_size)
    return Environment(rank, world_size, local_rank, local_world_size, address, port, node=node, launcher=launcher)


def _from_slurm(variables: Mapping[str, str]) -> Environment:
    """srun, one task a rank."""
    wanted = (*_NAMES["slurm"], "SLURM_NODEID", "SLURM_STEP_NODELIST")
    missing = [name for name in wanted if name not in variables]
    if missing:
        raise LaunchError(f"SLURM_STEP_NUM_TASKS is set but {', '.join(missing)} is not: start the run with srun")
    rank, world_size, local_rank, node = (
        _number(variables, name) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID")
    )
    for ours, theirs in (("SLURM_STEP_NUM_TASKS", "PMI_SIZE"), ("SLURM_PROCID", "PMI_RANK")):
        if theirs in variables and _number(variables, theirs) != _number(variables, ours):
            raise LaunchError(f"{theirs}={variables[theirs]} disagrees with {ours}={variables[ours]}: unset {theirs}")
    _check_shell_in_step(variables, world_size)
    try:
        tasks = expand_tasks(variables["SLURM_STEP_TASKS_PER_NODE"])
    except ValueError as error:
        raise LaunchError(f"SLURM_STEP_TASKS_PER_NODE: {error}") from None
    if node >= len(tasks) or sum(tasks) != world_size:
        raise LaunchError(
            f"SLURM_STEP_TASKS_PER_NODE={variables['SLURM_STEP_TASKS_PER_NODE']} disagrees with "
            f"SLURM_NODEID={node} or SLURM_STEP_NUM_TASKS={world_size}"
        )
    # With the cluster's name: two clusters may share a machine, and each counts its jobs from 1.
    job = ".".join(variables.get(f"SLURM_{part}", "") for part in ("CLUSTER_NAME", "JOB_ID", "STEP_ID"))
    address, port = _rendezvous(variables, world_size, tasks[node], "SLURM_STEP_NODELIST", job)
    return Environment(rank, world_size, local_rank, tasks[node], address, port, node=node, launcher="slurm")


# ---- the rendezvous, where the launcher does not name it -------------------------------------------------------------


def _rendezvous(
    variables: Mapping[str, str], world_size: int, local_world_size: int, nodelist: str, job: str
) -> tuple[str, int]:
    """Where the first rank is: MASTER_ADDR and MASTER_PORT, else the first node and a port all ranks derive alike.

    A run of one process needs no rendezvous unless it names one: port 0.
    """
    if world_size == 1 and "MASTER_PORT" not in variables:
        return "127.0.0.1", 0
    address = variables.get("MASTER_ADDR", "").strip("[]")  # as IPv6 is written before a port
    if not address and world_size == local_world_size:
        address = "127.0.0.1"
    elif not address:
        try:
            address = expand_nodes(variables[nodelist])[0]
        except ValueError as error:
            raise LaunchError(f"{nodelist}: {error}") from None
    if "MASTER_PORT" in variables:
        return address, _number(variables, "MASTER_PORT")
    if not job:
        raise LaunchError(
            "MASTER_PORT is not set, and this mpirun names nothing to derive it from: start the run with "
            "launch/mpirun.sh, or set MASTER_PORT"
        )
    return address, derived_port(job)


def derived_port(job: str) -> int:
    """A TCP port that everybody who knows the name of the job derives alike; different jobs seldom share one."""
    return FIRST_PORT + zlib.crc32(job.encode()) % PORTS


# ---- what cannot be ---------------------------------------------------------------------------------------------------


def _check(environment: Environment, variables: Mapping[str, str]) -> None:
    """A place that exists, and a rendezvous that all its nodes can reach."""
    rank, size, local_rank, local_size = _NAMES.get(environment.launcher, _TORCH_NAMES)
    if environment.rank >= environment.world_size:
        raise LaunchError(f"{rank}={environment.rank} is not below the number of processes, {environment.world_size}")
    if environment.local_rank >= environment.local_world_size:
        raise LaunchError(
            f"{local_rank}={environment.local_rank} is not below the number of processes, {environment.local_world_size}"
        )
    if environment.local_world_size > environment.world_size:
        raise LaunchError(f"{local_size}={environment.local_world_size} exceeds {size}={environment.world_size}")
    if environment.master_port > 65535:
        raise LaunchError(f"MASTER_PORT={environment.master_port} is not a port: the highest is 65535")
    if environment.world_size > environment.local_world_size and is_loopback(environment.master_address):
        raise LaunchError(
            f"MASTER_ADDR={environment.master_address} is reached from its own node only, but {environment.world_size} "
            f"processes run on several ({environment.local_world_size} on this one): set it to the first node's name"
        )


def _check_against_outer(environment: Environment, variables: Mapping[str, str]) -> None:
    """mpirun or srun around another launcher: one launcher a task and all of them one run, or the same ranks twice."""
    for outer in ("openmpi", "mpich", "slurm"):
        rank_name, size_name, _, _ = _NAMES[outer]
        tasks = _number(variables, size_name, default=1)
        if tasks == 1:
            continue
        nodes_name = {"torchrun": "GROUP_WORLD_SIZE", "deepspeed": "CROSS_SIZE"}.get(environment.launcher, "")
        nodes = _number(variables, nodes_name, default=environment.world_size // max(1, environment.local_world_size))
        if environment.world_size == tasks and environment.launcher == "variables":
            if environment.rank != _number(variables, rank_name):
                raise LaunchError(f"RANK={environment.rank} disagrees with {rank_name}={variables[rank_name]}")
        elif nodes != tasks:
            said = f"{nodes_name}={nodes}" if nodes_name else f"WORLD_SIZE={environment.world_size}"
            raise LaunchError(
                f"{said} disagrees with {size_name}={tasks}: {tasks} launchers were started that do not know each other; "
                "start one a node with launch/torchrun.sh, or every rank with srun or mpirun alone"
            )
        return


def _check_shell_in_step(variables: Mapping[str, str], world_size: int) -> None:
    """A shell that srun or salloc opened on a node of a larger allocation is one task; it is not the run that was meant."""
    allocated = _number(variables, "SLURM_NTASKS", default=world_size)
    if allocated != world_size:
        raise LaunchError(
            f"SLURM_NTASKS={allocated} disagrees with SLURM_STEP_NUM_TASKS={world_size}: start the run with srun, "
            "or unset SLURM_NTASKS for a run of one process"
        )


def _check_left_alone(variables: Mapping[str, str]) -> None:
    """No launcher: then nothing may look like the rest of one."""
    tasks = _number(variables, "SLURM_NTASKS", default=1)
    if "SLURM_JOB_ID" in variables and tasks > 1:
        raise LaunchError(
            f"SLURM_NTASKS={tasks}, but srun did not start this process: start the run with srun, "
            "or unset SLURM_NTASKS for a run of one process"
        )
    for name in ("LOCAL_RANK", "PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID"):
        if name in variables:
            raise LaunchError(
                f"{name} is set but the rest of its launcher's variables are not: unset it, or use a launcher"
            )


def _number(variables: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = variables.get(name)
    if text is None and default is not None:
        return default
    try:
        value = int(text or "")
    except ValueError:
        value = -1
    if value < 0:
        raise LaunchError(f"{name}={text!r} is not a number from 0 upward")
    return value
