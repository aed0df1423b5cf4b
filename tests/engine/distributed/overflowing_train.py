"""engine/train.py in fp16 whose second rank's own gradient overflows in the third step; at the end each rank writes its
weights and what it knows of the loss scale to its file in the run directory."""

import math
import sys

import torch
from torch import Tensor

from engine import Hook, Trainer, assemble, load_config


class Ending(Hook):
    """Writes a rank's state down."""

    def on_end(self, run, outcome) -> None:
        state = {**run.network.state_dict(), **run.parallelism.loss_scale.state_dict()}
        torch.save(
            {name: value for name, value in state.items() if not name.endswith(("running_mean", "running_var"))},
            run.directory.path / f"rank-{run.communicator.rank}.pt",
        )


def main() -> None:
    run = assemble(load_config(sys.argv[1:]), hooks=[Ending()])
    backward = run.parallelism.backward

    def overflowing(loss: Tensor) -> None:
        overflows = run.progress.step == 2 and run.communicator.rank == 1
        backward(loss * math.inf if overflows else loss)

    run.parallelism.backward = overflowing
    Trainer(run).fit()


if __name__ == "__main__":
    main()
