"""Looks at every node of a job before it trains, within seconds, and names those that are slow or broken.

    PREFLIGHT=1 sbatch slurm/imagenet.sbatch            a table in the job's log
    PREFLIGHT=exclude sbatch slurm/imagenet.sbatch      a job with such a node goes back to the queue, without it
    bash launch/torchrun.sh -- launch/preflight.py      here, or on each node of a hostfile

Every rank examines its node and its GPU, then sums vectors with the others of its node and, as first rank of its node, with
those of the nodes beside it. The first rank compares each node with the median of all.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

import torch
import torch.distributed as dist

from launch.environment import Environment, LaunchError, detect
from launch.examination import all_reduce, examine, node_name
from launch.meeting import check_name, wait_for_listener

# Below this share of the median of all nodes a rate is slow. Disks and memory vary with what else is there.
SLOW, SCARCE = 0.8, 0.5
_VARYING = ("free", "reading")
PATIENCE = timedelta(seconds=90)


def judge(nodes: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """What is wrong with each node, by name; nodes with nothing wrong are left out.

    `nodes` maps names to {"facts", "figures"}, or {"error": text}. A fact that differs from most nodes' is wrong, and a figure
    far below the median of all. Two nodes that differ are both named: which one is wrong, two cannot tell.
    """
    wrong: dict[str, list[str]] = {name: [found["error"]] for name, found in nodes.items() if "error" in found}
    sound = {name: found for name, found in nodes.items() if "error" not in found}
    for fact in sorted({fact for found in sound.values() for fact in found["facts"]}):
        values = {name: found["facts"].get(fact) for name, found in sound.items()}
        (common, times), *others = Counter(map(str, values.values())).most_common()
        tied = bool(others) and others[0][1] == times
        for name, value in values.items():
            if others and (tied or str(value) != common):
                rest = "other nodes differ" if tied else f"most nodes {common}"
                wrong.setdefault(name, []).append(f"{fact}: {value}, {rest}")
    for figure in sorted({figure for found in sound.values() for figure in found["figures"]}):
        rates = {name: found["figures"][figure] for name, found in sound.items() if figure in found["figures"]}
        median = statistics.median(rates.values())
        least = SCARCE if figure.startswith(_VARYING) else SLOW
        for name, rate in rates.items():
            if rate < least * median:
                wrong.setdefault(name, []).append(f"{figure}: {rate:.3g}, {rate / median:.0%} of the median")
    return wrong


def of_node(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One node's findings from those of its ranks: the lowest of each figure, the first error."""
    error = next((rank["error"] for rank in ranks if "error" in rank), None)
    if error is not None:
        return {"error": error}
    figures = {name for rank in ranks for name in rank["figures"]}
    lowest = {name: min(rank["figures"][name] for rank in ranks if name in rank["figures"]) for name in sorted(figures)}
    return {"facts": ranks[0]["facts"], "figures": lowest}


def table(nodes: dict[str, dict[str, Any]], wrong: dict[str, list[str]]) -> str:
    """The figures of every node, and a line for each that is not as it should be."""
    lines = []
    for name, found in nodes.items():
        figures = ", ".join(f"{figure} {value:.3g}" for figure, value in found.get("figures", {}).items())
        lines.append(f"{name}: {figures or 'not examined'}")
    lines += [f"node {name} is not as the others: {'; '.join(reasons)}" for name, reasons in wrong.items()]
    if not wrong:
        lines.append(f"preflight: nothing wrong with {len(nodes)} nodes")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Every rank's part; the first prints and writes what all found. 0 whatever was found; 2 for bad usage."""
    parser = argparse.ArgumentParser(prog="launch/preflight.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data.path", dest="data", type=Path, help="the dataset that nodes are to read")
    parser.add_argument(
        "--output", type=Path, help="folder for nodes.json, the printed report.txt, and wrong, nodes' names"
    )
    options = parser.parse_args(arguments)
    try:
        environment = detect()
        store = _meet(environment)
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = _found(environment, store, options.data)
    store.set(f"found/{environment.rank}", json.dumps({"node": node_name(), **found}))
    if environment.rank == 0:
        nodes = _gather(environment, store)
        wrong = judge(nodes)
        report = table(nodes, wrong)
        print(report, flush=True)
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            (options.output / "nodes.json").write_text(json.dumps({"nodes": nodes, "wrong": wrong}, indent=1))
            (options.output / "report.txt").write_text(f"{report}\n")
            (options.output / "wrong").write_text("".join(f"{name}\n" for name in wrong))
        store.set("over", "")
    store.wait(["over"], 4 * PATIENCE)  # the first rank's machine keeps the store
    store.add("left", 1)
    give_up = time.monotonic() + PATIENCE.total_seconds()
    while environment.rank == 0 and store.add("left", 0) < environment.world_size and time.monotonic() < give_up:
        time.sleep(0.05)
    return 0


def _meet(environment: Environment) -> dist.Store:
    if not environment.distributed:
        return dist.HashStore()
    if environment.hosts_store:
        check_name(environment.master_address)
    else:
        wait_for_listener(environment.master_address, environment.master_port, speaks=environment.local_rank == 0)
    place = environment.master_address, environment.master_port
    return dist.TCPStore(*place, is_master=environment.hosts_store, wait_for_workers=False, timeout=PATIENCE)


def _found(environment: Environment, store: dist.Store, data: Path | None) -> dict[str, Any]:
    """This rank's findings, or what kept it from finding."""
    store.set(f"node/{environment.rank}", node_name())
    try:
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", environment.local_rank % torch.cuda.device_count())
            torch.cuda.set_device(device)
        found = examine(device, data)
        if environment.world_size > 1:
            found["figures"] |= _exchanges(environment, store, device)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"}
    return found


def _exchanges(environment: Environment, store: dist.Store, device: torch.device) -> dict[str, float]:
    """Rates of sums within the node and, by the first rank of each node, with the two nodes beside it."""
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=dist.PrefixStore("exchange", store), rank=environment.rank,
        world_size=environment.world_size, timeout=PATIENCE,
    )  # fmt: skip
    store.set(f"place/{environment.rank}", str(environment.node))
    members: dict[int, list[int]] = {}
    for rank in range(environment.world_size):
        members.setdefault(int(store.get(f"place/{rank}")), []).append(rank)
    firsts = [ranks[0] for ranks in members.values()]
    beside = [[firsts[i], firsts[i + 1]] for start in (0, 1) for i in range(start, len(firsts) - 1, 2)]
    figures: dict[str, float] = {}
    for what, groups in (("within a node", [r for r in members.values() if len(r) > 1]), ("between nodes", beside)):
        made: list[tuple[list[int], Any]] = [(ranks, dist.new_group(ranks, timeout=PATIENCE)) for ranks in groups]
        rates = [all_reduce(device, group, len(ranks)) for ranks, group in made if environment.rank in ranks]
        if rates:
            figures[f"all-reduce {what} [GB/s]"] = max(rates)  # slow with one of two neighbours: the other one's fault
    dist.destroy_process_group()
    return figures


def _gather(environment: Environment, store: dist.Store) -> dict[str, dict[str, Any]]:
    """All nodes' findings; a rank that does not answer is its node's error."""
    ranks: dict[str, list[dict[str, Any]]] = {}
    give_up = time.monotonic() + 2 * PATIENCE.total_seconds()
    for rank in range(environment.world_size):
        left = timedelta(seconds=max(1.0, give_up - time.monotonic()))
        try:
            store.wait([f"found/{rank}"], left)
            found = json.loads(store.get(f"found/{rank}"))
            name = found.pop("node")
        except dist.DistStoreError:
            found = {"error": f"rank {rank} gave no answer within {2 * PATIENCE.total_seconds():.0f} s"}
            try:
                store.wait([f"node/{rank}"], timedelta(seconds=1))
                name = store.get(f"node/{rank}").decode()
            except dist.DistStoreError:
                name = f"of rank {rank}"
        ranks.setdefault(name, []).append(found)
    return {name: of_node(found) for name, found in ranks.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
