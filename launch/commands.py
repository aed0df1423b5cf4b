"""The exact command of every node, for each launcher."""

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launch.environment import LaunchError

_HERE = Path(__file__).resolve().parent
_RANK = str(_HERE / "rank.py")
# What a rank needs from the shell that started it, on every node; the rest it sets itself (launch/rank.py). A name that ends
# with "_" stands for all that begin so.
_PASSED_ON = (
    "PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "NCCL_", "GLOO_", "TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TRITON_", "XDG_",
    "OMP_", "MKL_", "CUDA_", "CUBLAS_", "CUDNN_", "DALI_", "UCX_", "FI_", "INCEPTION_",
)  # fmt: skip
# Of the session on one machine.
_KEPT = ("XDG_RUNTIME_DIR", "XDG_SESSION_", "XDG_SEAT", "XDG_VTNR")


@dataclass(frozen=True)
class Plan:
    """A start, launcher aside: which nodes, how many ranks on each, where they meet, what they run."""

    nodes: tuple[str, ...]
    least_nodes: int
    processes: int
    master: str
    port: int
    port_is_given: bool  # by the user, not chosen here
    run_id: str
    max_restarts: int
    hostfile: Path | None
    mpi: str | None
    command: tuple[str, ...]

    def ranks_before(self, host: str, launcher: str) -> int:
        """The first rank of a node. torchrun orders nodes by their names, letter by letter: n10 comes before n2."""
        order = sorted(self.nodes) if launcher == "torchrun" else self.nodes
        return order.index(host) * self.processes


def endpoint(plan: Plan) -> str:
    """Where the ranks meet, HOST:PORT; an IPv6 address stands in brackets."""
    return f"[{plan.master.strip('[]')}]:{plan.port}" if ":" in plan.master else f"{plan.master}:{plan.port}"


def finds_own_port(plan: Plan) -> bool:
    """Whether torchrun is left to find a free port on the one machine."""
    return len(plan.nodes) == 1 and not plan.port_is_given


def torchrun(plan: Plan) -> dict[int, list[str]]:
    """One agent a node, which meet by torch's c10d rendezvous; the first node's agent keeps its store."""
    agent = [sys.executable, str(_HERE / "agent.py")]
    ranks = [f"--nproc-per-node={plan.processes}", f"--max-restarts={plan.max_restarts}"]
    if finds_own_port(plan):
        return {0: [*agent, "--standalone", "--local-addr=127.0.0.1", *ranks, _RANK, *plan.command]}
    least, most = plan.least_nodes, len(plan.nodes)
    meeting = [
        f"--nnodes={least if least == most else f'{least}:{most}'}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint(plan)}",
        f"--rdzv-id={plan.run_id}",
    ]
    return {
        # Told its own name, an agent neither guesses whether it is the host of the endpoint nor calls itself localhost.
        index: [
            *agent,
            *meeting,
            f"--rdzv-conf=is_host={int(index == 0)}",
            f"--local-addr={host}",
            *ranks,
            _RANK,
            *plan.command,
        ]
        for index, host in enumerate(plan.nodes)
    }


def deepspeed(plan: Plan) -> dict[int, list[str]]:
    """DeepSpeed's launcher on every node."""
    if importlib.util.find_spec("deepspeed") is None:
        raise LaunchError("DeepSpeed is not installed: pip install 'inception-training[deepspeed]'")
    _only_torchrun_restarts(plan)
    meeting = [f"--master_addr={plan.master}", f"--master_port={plan.port}", "--no_local_rank"]
    if len(plan.nodes) == 1:
        # The part of the launcher that starts a node's ranks; the part before it wants a GPU for each.
        world = json.dumps({plan.nodes[0]: list(range(plan.processes))}).encode()
        world_info = f"--world_info={base64.urlsafe_b64encode(world).decode()}"
        return {0: [sys.executable, "-m", "deepspeed.launcher.launch", world_info, *meeting, _RANK, *plan.command]}
    if plan.hostfile is None:
        raise LaunchError(
            "DeepSpeed's launcher needs --hostfile for several nodes (in a SLURM job: "
            "scontrol show hostnames | sed 's/$/ slots=8/' > hosts)"
        )
    size = [f"--num_nodes={len(plan.nodes)}", f"--num_gpus={plan.processes}"]
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={plan.hostfile}", *size, "--no_ssh"]
    return {
        index: [*runner, f"--node_rank={index}", *meeting, _RANK, *plan.command] for index in range(len(plan.nodes))
    }


def mpirun(plan: Plan) -> dict[int, list[str]]:
    """One mpirun for all nodes, which fills them in order."""
    _only_torchrun_restarts(plan)
    kind = plan.mpi or _kind_of_mpirun()
    total = str(len(plan.nodes) * plan.processes)
    rank = [sys.executable, _RANK, *plan.command]
    meeting = {"MASTER_ADDR": plan.master, "MASTER_PORT": str(plan.port)}
    passed = {name: value for name, value in os.environ.items() if len(plan.nodes) > 1 and _travels(name)}
    if kind == "mpich":
        variables = [word for name, value in (meeting | passed).items() for word in ("-genv", name, value)]
        return {
            0: ["mpiexec", "-hosts", ",".join(plan.nodes), "-ppn", str(plan.processes), "-n", total, *variables, *rank]
        }
    hosts = ",".join(f"{host}:{plan.processes}" for host in plan.nodes)
    # Ranks bind themselves; mpirun would give each one core. Containers run as root, which it refuses unless told.
    place = ["--map-by", f"ppr:{plan.processes}:node", "--bind-to", "none"]
    place += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    variables = [word for name, value in meeting.items() for word in ("-x", f"{name}={value}")]
    variables += [word for name in passed for word in ("-x", name)]
    return {0: ["mpirun", "-n", total, "--host", hosts, *place, *variables, *rank]}


LAUNCHERS: dict[str, Callable[[Plan], dict[int, list[str]]]] = {
    "torchrun": torchrun,
    "deepspeed": deepspeed,
    "mpirun": mpirun,
}


def _travels(name: str) -> bool:
    """Whether a variable of the user's goes to all nodes."""
    return not name.startswith(_KEPT) and any(
        name.startswith(known) if known.endswith("_") else name == known for known in _PASSED_ON
    )


def _only_torchrun_restarts(plan: Plan) -> None:
    if plan.max_restarts:
        raise LaunchError("--max-restarts: only torchrun restarts ranks; start the run again instead, it resumes")
    if plan.least_nodes != len(plan.nodes):
        raise LaunchError("--nodes N:M: only torchrun goes on with fewer nodes")


def _kind_of_mpirun() -> str:
    program = shutil.which("mpirun")
    if program is None:
        raise LaunchError("mpirun is not on the path: install the extra `mpi`, or load the cluster's module")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    if "Open MPI" in said or "OpenRTE" in said:
        return "openmpi"
    if "HYDRA" in said or "Intel(R) MPI" in said:
        return "mpich"
    raise LaunchError(f"{program} is neither OpenMPI's nor MPICH's: say which it follows, --mpi openmpi or --mpi mpich")
