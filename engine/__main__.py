"""The commands by name: `python -m engine train --help`."""

import importlib
import sys
from collections.abc import Sequence

from engine.config.options import ConfigError
from engine.faults.exit_status import DONE, run_entry_point
from pipelines.support.meant import value_meant

COMMANDS = {
    "train": ("engine.train", "Train a network."),
    "evaluate": ("engine.evaluate", "Evaluate weights on a split."),
    "predict": ("engine.predict", "Tell what pictures show."),
    "export": ("engine.export", "Write weights for other programs."),
    "watch": ("engine.watch", "Serve the live pages of runs."),
    "report": ("engine.report", "Write the page of a run anew."),
    "prepare": ("pipelines.prepare", "Turn archives or folders into a dataset that reads fast."),
    "doctor": ("pipelines.doctor", "Check every image of a dataset."),
    "completion": ("engine.completion", "Print what completes all these in a shell."),
}


def main(arguments: Sequence[str]) -> int:
    """Lists the commands, without one or with --help; refuses what is none. Returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("python -m engine COMMAND [OPTION ...]; of an installed package inception-COMMAND\n")
        for name, (_, words) in COMMANDS.items():
            print(f"  {name:12}{words}")
        print("\nCOMMAND --help shows its options.")
        return DONE
    meant = value_meant(arguments[0], COMMANDS)
    raise ConfigError(f"{arguments[0]} is no command; the commands are {', '.join(COMMANDS)}{meant}")


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in COMMANDS:  # each has its own way to end the process
        importlib.import_module(COMMANDS[sys.argv.pop(1)][0]).command()
    run_entry_point(main)
