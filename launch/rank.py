"""Starts one rank: gives it its cores, memory and network interface, then becomes the program it is to run.

    mpirun -n 8 python launch/rank.py engine/train.py --recipe imagenet_inception_v4 ...

Every launcher of this folder, and slurm/, starts ranks through here, so that they are placed alike. What the user has
set already (an environment variable, a binding by SLURM or MPI) stays as it is.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The repository root instead of this script's own folder: modules are found as launch.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

import psutil

from launch.environment import Environment, LaunchError, detect
from launch.placement import GpuPlace, Placement, has_own_cores, place_rank

# Each only where the user has not set it.
DEFAULTS = {
    # NCCL explains its errors; without it a broken cable is "unhandled system error".
    "NCCL_DEBUG": "WARN",
    # Python's own tracebacks of all threads when a rank dies of a segmentation fault or an abort.
    "PYTHONFAULTHANDLER": "1",
    # Rank output reaches the log as it is written, also when the rank is killed a moment later.
    "PYTHONUNBUFFERED": "1",
}


def main(command: Sequence[str]) -> int:
    """Becomes `python COMMAND` in its place; returns (with status 2) only when it cannot."""
    try:
        program, variables = prepare(command)
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.execvpe(program[0], program, variables)
    return 0


def prepare(command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Binds this process to its cores; returns the program to become and its environment.

    Raises LaunchError for a script that does not exist, or a launcher whose variables make no sense.
    """
    if not command:
        raise LaunchError("launch/rank.py needs the script to run: launch/rank.py engine/train.py [options]")
    script = Path(command[0]) if Path(command[0]).is_absolute() else _here.parent / command[0]
    if not script.is_file():
        raise LaunchError(f"{script} does not exist on {socket.gethostname()}")
    environment = detect()
    placement = place_rank(environment.local_rank, environment.local_world_size, local_gpus())
    if placement.cores:
        os.sched_setaffinity(0, placement.cores)
    program = [*memory_binding(placement), sys.executable, str(script), *command[1:]]
    return program, settings(environment, placement) | os.environ


def settings(environment: Environment, placement: Placement) -> dict[str, str]:
    """The environment variables this rank should have, for its place."""
    chosen = dict(DEFAULTS)
    # A first guess, for libraries that read it as they are loaded; the engine divides cores when the ranks have met.
    allowed, ranks = frozenset(os.sched_getaffinity(0)), environment.local_world_size
    sharing = 1 if placement.cores or has_own_cores(ranks, allowed) else ranks
    chosen["OMP_NUM_THREADS"] = str(max(1, len(allowed) // sharing))
    if environment.world_size > environment.local_world_size:
        interface = interface_towards(environment.master_address)
        if interface is None:
            print(
                f"note: no network interface of {socket.gethostname()} is known to lead to {environment.master_address}: gloo "
                "and NCCL choose one themselves; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name another",
                file=sys.stderr,
            )
        else:
            # A host name that resolves to 127.0.1.1 (Debian's habit) or a container bridge that comes first in the
            # list makes the ranks of other nodes unreachable: use the interface that leads to the first rank. NCCL
            # needs it for its first contact only; over InfiniBand it then chooses the adapters near each GPU itself.
            chosen |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    if placement.adapters:
        # UCX (MPI) is told the nearest adapter. NCCL is not: it reads the same PCI tree, and ranks of one node that
        # were given different adapters disagree about the node's rings.
        chosen["UCX_NET_DEVICES"] = ",".join(f"{adapter}:1" for adapter in placement.adapters)
    return chosen


def memory_binding(placement: Placement) -> list[str]:
    """numactl's command that prefers the memory next to the cores, where numactl is and there is a choice."""
    if placement.numa_node is None or not shutil.which("numactl"):
        return []
    return ["numactl", f"--preferred={placement.numa_node}"]


def local_gpus() -> list[GpuPlace]:
    """The GPUs this rank's node offers to the job, in the order of their CUDA indices; none without the driver's tool."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    tool = shutil.which("nvidia-smi")
    if visible == "" or tool is None:
        return []
    query = [tool, "--query-gpu=index,uuid,pci.bus_id", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 2]
    places = {key: GpuPlace.from_bus_id(bus) for index, uuid, bus in rows for key in (index, uuid)}
    if done.returncode != 0:
        return []
    wanted = [index for index, _, _ in rows] if visible is None else visible.split(",")
    return [places[key] for key in wanted if key in places]


def interface_towards(address: str) -> str | None:
    """The network interface through which this machine reaches `address`; None when it cannot be found out."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(address, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)  # sends nothing: only asks the kernel for the route
            own = probe.getsockname()[0]
    except OSError:
        return None
    return interface_of(own)


def interface_of(own: str) -> str | None:
    """The interface that has the address `own`, or None."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == own for address in addresses):
            return name
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
