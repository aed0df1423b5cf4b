"""Hundreds of ranks on one machine: how long they take to meet, and to stop when one of them is asked to.

    python benchmarks/studies/many_ranks.py [--ranks 256] [--step 0.1]

Each rank is a process with the engine's own communicator, rendezvous, vote and stop request; a step is a sleep. What a
network would add is not in it, nor is what hundreds of processes take from a few cores taken out.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks.measuring import Parser, positive
from benchmarks.measuring.processes import finished, own_environment
from benchmarks.reporting.results import Result
from engine.config.options import StrategyConfig
from engine.distributed.strategies import join
from engine.faults.exit_status import DONE, PREEMPTED, run_entry_point
from engine.faults.stop_request import StopRequest
from launch.environment import Environment


def main(arguments: Sequence[str]) -> int:
    parser = Parser("Many ranks meet, vote and stop.")
    parser.add_argument("--ranks", type=positive, default=256, help="number of ranks")
    parser.add_argument("--step", type=float, default=0.1, help="seconds of a step, slept")
    parser.add_argument("--rounds", type=positive, default=3, help="how often all is done")
    parser.add_argument("--worker", type=Path, default=None, help="for the process that this script starts")
    options = parser.parse_args(arguments)
    if options.worker:
        options.worker.write_text(json.dumps(one_round(options.ranks, options.step)))
        return DONE
    result = Result("many_ranks", options)
    rounds = []
    for number in range(options.rounds):
        result.say(f"round {number + 1} of {options.rounds}: {options.ranks} ranks ...")
        rounds.append(_apart(options, result.folder / f"many-ranks-{os.getpid()}.json"))
    for what in ("meeting", "stopping"):
        seconds = [found[what] for found in rounds]
        result.add({"ranks": options.ranks, "what": what}, "s", seconds, higher_is_better=False)
    result.note("Meeting: from the first process to the last rank's first vote.")
    result.note("Stopping: from a signal to one rank to the last one's end.")
    result.finish()
    return DONE


def _apart(options: Any, output: Path) -> dict[str, float]:
    """A round in a process of its own, whose memory the ranks share."""
    told = [f"--ranks={options.ranks}", f"--step={options.step}", f"--worker={output}"]
    output.parent.mkdir(parents=True, exist_ok=True)
    finished([sys.executable, __file__, *told], "a round", own_environment() | {"GLOO_SOCKET_IFNAME": "lo"})
    found = json.loads(output.read_text())
    output.unlink()
    return found


def one_round(ranks: int, step: float) -> dict[str, float]:
    """Starts so many ranks as forks of this process, asks one to stop once all vote, and waits for the end of all. Returns
    seconds. Raises RuntimeError when a rank ends with another status than that of a run that was stopped."""
    torch.set_num_threads(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    read, write = os.pipe()
    began = time.monotonic()
    processes = []
    for rank in range(ranks):
        process = os.fork()
        if process == 0:
            os._exit(_rank(Environment(rank, ranks, rank, ranks, "127.0.0.1", port, launcher="variables"), step, write))
        processes.append(process)
    met = 0
    while met < ranks:
        met += len(os.read(read, ranks))
    voting = time.monotonic()
    os.kill(processes[ranks // 2], signal.SIGUSR1)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    ended = time.monotonic()
    if set(statuses) != {PREEMPTED}:
        raise RuntimeError(f"ranks ended with {sorted(set(statuses))}, not all with {PREEMPTED}")
    return {"meeting": voting - began, "stopping": ended - voting}


def _rank(environment: Environment, step: float, ready: int) -> int:
    stop = StopRequest(PREEMPTED)
    communicator = join(environment, StrategyConfig(), "cpu")
    stop.begin()
    communicator.vote((False,), conclude=False)
    os.write(ready, b".")
    while True:
        time.sleep(step)
        (stopping,) = communicator.vote((stop.requested,), conclude=False)
        if stopping:
            return PREEMPTED


if __name__ == "__main__":
    run_entry_point(main)
