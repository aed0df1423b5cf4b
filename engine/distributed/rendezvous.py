"""Where the ranks of a run meet: the launcher's key-value store."""

import socket
import time
from datetime import timedelta

import torch.distributed as dist

from launch.environment import Environment, LaunchError
from launch.meeting import check_name, wait_for_listener

_ANSWER_PATIENCE = timedelta(seconds=40)  # of a store that listens, on a machine that others load


def meet(environment: Environment) -> dist.Store:
    """The run's key-value store, once every rank has reached it.

    A rank may come hours after the others, its machine having built an index of the dataset first: waiting here has no
    time limit, since the launcher ends all ranks when one fails.
    """
    address, port = environment.master_address, environment.master_port
    # torchrun's agent hosts the store; without one, the first rank does.
    if environment.hosts_store:
        check_name(address)
    else:
        wait_for_listener(address, port, speaks=environment.local_rank == 0)
    try:
        store = dist.TCPStore(
            address, port, is_master=environment.hosts_store, wait_for_workers=False, timeout=_ANSWER_PATIENCE
        )
    except dist.DistNetworkError as error:
        if not environment.hosts_store:
            raise
        if "in use" in str(error):
            raise LaunchError(
                f"the ranks cannot meet at {address}:{port}, which another program uses: set MASTER_PORT"
            ) from None
        raise LaunchError(
            f"the ranks cannot meet at {address}:{port}: this machine, {socket.gethostname()}, has the first rank and does not "
            "reach itself by that address; set MASTER_ADDR to one of its own that all nodes know"
        ) from None
    present = f"present/{environment.restart}"
    store.add(present, 1)
    while store.add(present, 0) < environment.world_size:
        time.sleep(0.05)
    return dist.PrefixStore(f"run/{environment.restart}", store)
