"""One of several ranks that vote: what each call answered and which sockets are open, written as JSON to the file OUT-RANK."""

import json
import sys
import time
from pathlib import Path

import torch.distributed as dist

from engine.config.options import StrategyConfig
from engine.distributed.strategies import join
from launch.environment import detect

sys.path.append(str(Path(__file__).resolve().parents[2] / "support"))
from processes import open_files

# Of each phase: how many calls, the seconds of a step, and which rank wishes what from which call on, counted from 0.
PHASES = [
    (200, 0.002, {2: ("stop", 60)}),
    (3, 0.05, {1: ("save", 2)}),
    (40, 0.01, {}),
    (1, 0.0, {3: ("stop", 0), 0: ("save", 0)}),
]


def sockets() -> int:
    """How many this process has open."""
    return sum(file.startswith("socket:") for file in open_files())


def main(out: str) -> None:
    before = sockets()
    communicator = join(detect(), StrategyConfig(), "cpu")
    exchanges, gather = [0], dist.gather

    def counted(*arguments, **options):
        exchanges[0] += 1
        return gather(*arguments, **options)

    dist.gather = counted
    phases = []
    for calls, seconds, wishes in PHASES:
        kind, first = wishes.get(communicator.rank, ("", 0))
        answers, granted = [], False
        for call in range(calls):
            time.sleep(seconds * (1 + communicator.rank / 4))  # each at its own pace
            wished = call >= first and not granted
            answer = communicator.vote(
                (kind == "stop" and wished, kind == "save" and wished), conclude=call == calls - 1
            )
            granted = granted or answer[("stop", "save").index(kind)] if kind else granted
            answers.append(answer)
        phases.append({"answers": answers, "exchanges": exchanges[0]})
    opened = sockets() - before
    assert communicator.broadcast(communicator.rank) == 0
    assert communicator.gather(communicator.rank) == list(range(communicator.world_size))
    Path(f"{out}-{communicator.rank}").write_text(json.dumps({"phases": phases, "sockets": opened}))
    communicator.close()


if __name__ == "__main__":
    main(sys.argv[1])
