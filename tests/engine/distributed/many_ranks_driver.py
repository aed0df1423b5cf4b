"""Hundreds of ranks on one machine, each a fork with the engine's communicator, rendezvous, vote and stop request: prints as JSON
the seconds that they take to meet, and to stop when one of them is asked to. A step is a sleep. RANKS STEP."""

import json
import os
import signal
import socket
import sys
import time

import torch

from engine.config.options import StrategyConfig
from engine.distributed.strategies import join
from engine.faults.exit_status import PREEMPTED
from engine.faults.stop_request import StopRequest
from launch.environment import Environment


def one_round(ranks: int, step: float) -> dict[str, float]:
    """Starts so many ranks, asks one to stop once all vote, and waits for the end of all."""
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
    statuses = {os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes}
    assert statuses == {PREEMPTED}, f"ranks ended with {sorted(statuses)}"
    return {"meeting": voting - began, "stopping": time.monotonic() - voting}


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
    print(json.dumps(one_round(int(sys.argv[1]), float(sys.argv[2]))))
