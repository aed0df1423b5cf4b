"""Train a network: `torchrun --nproc_per_node=8 engine/train.py --recipe imagenet_inception_v4 --data.path DIR`.

With no option it trains the `sample` recipe on the embedded dataset. `--help` shows every option.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# The repository root instead of this script's own folder: modules are found as engine.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

import yaml

from engine.config.command_line import DRY_RUN, PRINT_CONFIG, load_config
from engine.faults.exit_status import DONE, run_entry_point
from engine.training.assembly import assemble
from engine.training.dry_run import dry_run
from engine.training.trainer import Trainer


def main(arguments: Sequence[str]) -> int:
    """Trains as the command line says, or says what would be trained; returns the exit status."""
    if PRINT_CONFIG in arguments:
        print(yaml.safe_dump(load_config(arguments).to_dict(), sort_keys=False), end="")
        return DONE
    if DRY_RUN in arguments:
        dry_run(load_config(arguments), print)
        return DONE
    return Trainer(assemble(load_config(arguments))).fit().status


def command() -> NoReturn:
    """Runs the program on the command line and ends the process."""
    run_entry_point(main)


if __name__ == "__main__":
    command()
