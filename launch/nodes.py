"""Which nodes a run has: from a hostfile, from SLURM, or this machine alone; and which of them this one is."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from launch.addresses import is_loopback
from launch.environment import LaunchError
from launch.hostlist import expand_nodes

# OpenMPI's and DeepSpeed's format; MPICH writes HOST:RANKS. An IPv6 address stands in brackets, or is followed by a blank.
_LINE = re.compile(
    r"(?P<host>\[[^\s\[\]]+\]|[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(?=\s|$)|[^\s:#\[\]]+)"
    r"(?:\s+slots\s*=\s*(?P<slots>\d+)|:(?P<ranks>\d+))?(?:\s+max[-_]slots\s*=\s*\d+)?"
)


@dataclass(frozen=True)
class Node:
    """One node; `slots` is 0 where nothing says how many ranks it takes."""

    host: str
    slots: int = 0


def find_nodes(hostfile: Path | None, master: str | None, wanted: int) -> list[Node]:
    """The nodes in order. Raises LaunchError for a hostfile that cannot be used, or several nodes that nothing names."""
    if hostfile is not None:
        return read_hostfile(hostfile)
    if "SLURM_JOB_NODELIST" in os.environ:
        try:
            return [Node(host) for host in expand_nodes(os.environ["SLURM_JOB_NODELIST"])]
        except ValueError as error:
            raise LaunchError(f"SLURM_JOB_NODELIST: {error}") from None
    if wanted > 1:
        raise LaunchError(f"--nodes {wanted} needs their names: --hostfile FILE with one node a line")
    return [Node(master or "127.0.0.1")]


def read_hostfile(path: Path) -> list[Node]:
    """Reads `HOST slots=N` (OpenMPI, DeepSpeed) or `HOST:N` (MPICH), one a line; # begins a comment."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(f"hostfile {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    nodes: list[Node] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        slots = match and (match["slots"] or match["ranks"])
        if not match or slots == "0":
            raise LaunchError(f"hostfile {path}, line {number}: {text!r} is not `HOST slots=RANKS`")
        if any(node.host == match["host"] for node in nodes):
            raise LaunchError(f"hostfile {path}, line {number}: {match['host']} stands there twice")
        nodes.append(Node(match["host"].strip("[]"), int(slots or 0)))
    if not nodes:
        raise LaunchError(f"hostfile {path} names no node")
    return nodes


def which_node(hosts: Sequence[str], given: int | None) -> int:
    """The place of this machine among `hosts`. Raises LaunchError when it is not one of them."""
    if given is not None:
        return given
    # Under srun, one launcher a node; the node's name in SLURM need not be its host name.
    if int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) == len(hosts) and "SLURM_NODEID" in os.environ:
        return int(os.environ["SLURM_NODEID"])
    name = socket.gethostname()
    own = {name, name.partition(".")[0], socket.getfqdn(), os.environ.get("SLURMD_NODENAME", name)}
    found = [index for index, host in enumerate(hosts) if host in own]
    found = found or [index for index, host in enumerate(hosts) if is_loopback(host) or _is_ours(host)]
    if len(found) != 1:
        several = f"{', '.join(hosts[:4])}{'...' if len(hosts) > 4 else ''}"
        raise LaunchError(
            f"this machine, {name}, is not among the nodes {several}: start it there, or give --node-rank"
        )
    return found[0]


def _is_ours(host: str) -> bool:
    """Whether a name or address leads to one of this machine's interfaces."""
    try:
        addresses = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return any(
        address.address.partition("%")[0] in addresses for every in psutil.net_if_addrs().values() for address in every
    )


def count_gpus() -> int:
    """GPUs this machine offers to the job; 0 without the driver's tool."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip()])
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=60, check=False)
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0
