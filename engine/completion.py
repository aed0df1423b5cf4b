"""Completion of every command's options in a shell: `python -m engine completion bash > FILE`, and the shell reads FILE."""

import contextlib
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# The repository root instead of this script's own folder: modules are found as engine.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

from engine.__main__ import COMMANDS
from engine.faults.exit_status import DONE, run_entry_point
from pipelines.support.completion import COMPLETION, SHELLS
from pipelines.support.entry_point import Parser

# Scripts of a clone have no command of their own: what runs them passes the words behind the script on.
_SCRIPTS = r"""
_inception_script() {
  local place name
  COMPREPLY=()
  for ((place = 1; place < COMP_CWORD; place++)); do
    if [[ ${COMP_WORDS[place]} =~ (^|/)(engine|pipelines)/([a-z]+)\.py$ ]]; then
      name=${BASH_REMATCH[3]}
    elif [[ ${COMP_WORDS[place - 1]} == engine && ${COMP_WORDS[place - 2]} == -m ]]; then
      name=${COMP_WORDS[place]}
    fi
    if [[ -n $name ]] && declare -F "_shtab_inception_$name" > /dev/null; then
      COMP_WORDS=("inception-$name" "${COMP_WORDS[@]:place + 1}") COMP_CWORD=$((COMP_CWORD - place))
      "_shtab_inception_$name"
      return
    fi
  done
}
complete -o bashdefault -o default -F _inception_script python python3 torchrun
"""


def main(arguments: Sequence[str]) -> int:
    """Prints the completion of all commands for the shell on the command line; returns the exit status."""
    parser = Parser(prog="engine/completion.py", description="What completes every command's options in a shell.")
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to read it")
    shell = parser.parse_args(arguments).shell
    for module, _ in COMMANDS.values():
        if module != "engine.completion":
            print(completion_of(module, shell))
    if shell == "bash":
        print(_SCRIPTS)
    return DONE


def completion_of(module: str, shell: str) -> str:
    """What completes the options of one command."""
    command = importlib.import_module(module)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        getattr(command, "parse", command.main)([COMPLETION, shell])
    return printed.getvalue()


def command() -> NoReturn:
    """Runs the program on the command line and ends the process."""
    run_entry_point(main)


if __name__ == "__main__":
    command()
