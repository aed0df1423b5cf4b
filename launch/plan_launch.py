"""Plans how a run starts on its nodes, and starts it: the body of torchrun.sh, mpirun.sh and deepspeed.sh.

    bash launch/torchrun.sh  [options] [--] [SCRIPT] [options of the script]     the same on every node
    bash launch/deepspeed.sh [options] [--] [SCRIPT] [options of the script]     the same on every node
    bash launch/mpirun.sh    [options] [--] [SCRIPT] [options of the script]     once, on any node

SCRIPT is engine/train.py unless named. What `--dry-run` prints is what runs without it: one plan makes both.
"""

import argparse
import os
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# The repository root instead of this script's own folder: modules are found as launch.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

from launch.addresses import is_loopback
from launch.commands import LAUNCHERS, Plan, endpoint, finds_own_port
from launch.environment import LaunchError, derived_port
from launch.meeting import check_name, wait_for_listener
from launch.nodes import Node, count_gpus, find_nodes, which_node
from launch.supervisor import supervise

TRAIN = "engine/train.py"
DEFAULT_PORT = 29400


class Parser(argparse.ArgumentParser):
    """Bad usage is one line."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (--help shows the usage)", file=sys.stderr)
        raise SystemExit(2)


def parse(launcher: str, arguments: Sequence[str]) -> argparse.Namespace:
    """What follows the launcher's name: its own options end at `--` or at the first word that is none of them."""
    parser = Parser(prog=f"launch/{launcher}.sh", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--hostfile", type=Path, metavar="FILE", help="the nodes, one a line: `HOST slots=RANKS`")
    parser.add_argument("--nodes", metavar="N[:M]", help="how many nodes of the hostfile (torchrun: from N to M)")
    parser.add_argument("--processes", type=int, metavar="P", help="ranks a node (default: its slots, else its GPUs)")
    parser.add_argument("--node-rank", type=int, metavar="K", help="which node this is (default: found by its name)")
    parser.add_argument("--master", metavar="HOST", help="where the ranks meet (default: the first node)")
    parser.add_argument(
        "--port", type=int, metavar="P", help="at which port (default: the job's own, 29400, or a free one)"
    )
    parser.add_argument("--max-restarts", type=int, default=0, metavar="R", help="torchrun: starts after a crash")
    parser.add_argument("--mpi", choices=["openmpi", "mpich"], help="mpirun's kind (default: ask it)")
    parser.add_argument("--dry-run", action="store_true", help="print what would run on every node, and stop")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="[SCRIPT] [options]", help="what the ranks run")
    options = parser.parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command or options.command[0].startswith("-"):
        options.command.insert(0, TRAIN)
    return options


def make_plan(options: argparse.Namespace) -> Plan:
    """The whole start, checked. Raises LaunchError for what could not work."""
    least, most = _span(options.nodes)
    nodes = find_nodes(options.hostfile, options.master, most)
    if most and len(nodes) < most:
        raise LaunchError(f"--nodes {options.nodes}: only {len(nodes)} are named; name them all in --hostfile")
    nodes = nodes[: most or len(nodes)]
    processes = _processes(options, nodes)
    master = options.master or os.environ.get("MASTER_ADDR") or nodes[0].host
    if len(nodes) > 1:
        for host in (master, *(node.host for node in nodes)):
            if is_loopback(host):
                raise LaunchError(f"{host} is another machine on each of {len(nodes)} nodes: give the nodes' own names")
    plan = Plan(
        nodes=tuple(node.host for node in nodes),
        least_nodes=least or len(nodes),
        processes=processes,
        master=master,
        port=_port(options, len(nodes)),
        port_is_given=options.port is not None or "MASTER_PORT" in os.environ,
        run_id=os.environ.get("SLURM_JOB_ID", "run"),
        max_restarts=options.max_restarts,
        hostfile=options.hostfile,
        mpi=options.mpi,
        command=tuple(options.command),
    )
    if options.max_restarts < 0:
        raise LaunchError(f"--max-restarts {options.max_restarts} is not a number from 0 upward")
    script = Path(plan.command[0])
    if not (script if script.is_absolute() else _here.parent / script).is_file():
        raise LaunchError(f"{plan.command[0]} does not exist; name the script relative to the repository")
    if options.node_rank is not None and not 0 <= options.node_rank < len(nodes):
        raise LaunchError(f"--node-rank {options.node_rank} is not below the number of nodes, {len(nodes)}")
    return plan


def _span(text: str | None) -> tuple[int, int]:
    """`4` is (4, 4), `2:4` is (2, 4), nothing is (0, 0): as many as are named."""
    if text is None:
        return 0, 0
    first, _, last = text.partition(":")
    if not (first.isdecimal() and (last or first).isdecimal() and 0 < int(first) <= int(last or first)):
        raise LaunchError(f"--nodes {text!r} is not a number of nodes, as 4 or 2:4")
    return int(first), int(last or first)


def _processes(options: argparse.Namespace, nodes: Sequence[Node]) -> int:
    """Ranks a node: the same on all, as DistributedDataParallel's equal slices of a batch want it."""
    slots = {node.slots for node in nodes if node.slots}
    if options.processes is not None:
        if options.processes < 1:
            raise LaunchError(f"--processes {options.processes} is not a number from 1 upward")
        small = next((node for node in nodes if node.slots and node.slots < options.processes), None)
        if small:
            raise LaunchError(
                f"--processes {options.processes}: {small.host} has slots={small.slots} in {options.hostfile}"
            )
        return options.processes
    if len(slots) > 1:
        raise LaunchError(f"{options.hostfile} gives nodes different slots ({sorted(slots)}): choose with --processes")
    return slots.pop() if slots else max(1, count_gpus())


def _port(options: argparse.Namespace, nodes: int) -> int:
    """The port given, or one that all nodes find alike; on one machine, where runs may share it, a free one."""
    job = os.environ.get("SLURM_JOB_ID")
    given = os.environ.get("MASTER_PORT", "")
    port = options.port if options.port is not None else int(given) if given.isdecimal() else None
    if port is None:
        if job:
            return derived_port(job)
        if nodes > 1:
            return DEFAULT_PORT
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]
    if not 1024 <= port <= 65535:
        raise LaunchError(f"--port {port} is not from 1024 to 65535")
    return port


def describe(plan: Plan, launcher: str) -> str:
    """The plan for a reader: where the ranks meet, and for each node its ranks and its command."""
    commands = LAUNCHERS[launcher](plan)
    total = len(plan.nodes) * plan.processes
    place = (
        f"at {endpoint(plan)}"
        if launcher != "torchrun" or not finds_own_port(plan)
        else "here, at a port that torchrun finds"
    )
    lines = [f"{launcher}: {len(plan.nodes)} x {plan.processes} = {total} ranks; they meet {place}"]
    for index, host in enumerate(plan.nodes):
        first = plan.ranks_before(host, launcher)
        lines.append(f"{host}: ranks {first}-{first + plan.processes - 1}")
        if index in commands:
            lines.append(f"    {shlex.join(commands[index])}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """`LAUNCHER options`: prints the plan, or becomes this node's part of it."""
    launcher, *rest = arguments
    options = parse(launcher, rest)
    try:
        plan = make_plan(options)
        commands = LAUNCHERS[launcher](plan)
        if options.dry_run:
            print(describe(plan, launcher))
            return 0
        index = 0
        if len(commands) > 1 or (launcher != "mpirun" and plan.hostfile):  # mpirun reaches the nodes from anywhere
            index = which_node(plan.nodes, options.node_rank)
        if launcher == "torchrun" and index > 0:
            wait_for_listener(plan.master, plan.port)
        elif len(plan.nodes) > 1:
            check_name(plan.master)
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if launcher != "torchrun":
        return supervise(launcher, commands[index])
    os.execvp(commands[index][0], commands[index])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
