"""Started by a launcher's test as a rank: writes the cores that it has, when every core is shared, and when each is bound.

python cores_of_rank.py FOLDER CORES: the machine is to have that many cores.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.config.options import StrategyConfig
from engine.distributed.cores import divide_cores
from engine.distributed.strategies import join
from launch.environment import detect

folder, cores = Path(sys.argv[1]), int(sys.argv[2])
environment = detect()
communicator = join(environment, StrategyConfig(), "cpu")
rank, ranks, found = communicator.rank, communicator.world_size, {}
for case, own in {"shared": range(cores), "bound": range(rank * cores // ranks, (rank + 1) * cores // ranks)}.items():
    os.sched_getaffinity = lambda process, own=own: set(own)
    divide_cores(communicator)
    found[case] = communicator.cores
(folder / f"{environment.launcher}-{rank}.json").write_text(json.dumps(found))
communicator.close()
