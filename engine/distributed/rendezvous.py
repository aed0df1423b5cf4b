"""Where the ranks of a run meet: the launcher's key-value store."""

import time

import torch.distributed as dist

from launch.environment import Environment, LaunchError


def meet(environment: Environment) -> dist.Store:
    """The run's key-value store, once every rank has reached it.

    A rank may come hours after the others, its machine having built an index of the dataset first: waiting here has no
    time limit, since the launcher ends all ranks when one fails.
    """
    try:
        store = dist.TCPStore(
            environment.master_address,
            environment.master_port,
            # torchrun's agent hosts the store; without one, the first rank does.
            is_master=environment.hosts_store,
            wait_for_workers=False,
        )
    except dist.DistNetworkError:
        if not environment.hosts_store:
            raise
        place = f"{environment.master_address}:{environment.master_port}"
        raise LaunchError(f"the ranks cannot meet at {place}, which another program uses: set MASTER_PORT") from None
    present = f"present/{environment.restart}"
    store.add(present, 1)
    while store.add(present, 0) < environment.world_size:
        time.sleep(0.05)
    return dist.PrefixStore(f"run/{environment.restart}", store)
