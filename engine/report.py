"""Write the page that shows a run anew: `python engine/report.py RUN_DIR` makes RUN_DIR/report.html."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# The repository root instead of this script's own folder: modules are found as engine.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

from engine.config.options import ConfigError
from engine.faults.exit_status import run_entry_point
from engine.monitoring.report.page import write_report
from pipelines.support.entry_point import Parser


def main(arguments: Sequence[str]) -> int:
    """Writes the page of the run directory on the command line; returns the exit status."""
    parser = Parser(prog="engine/report.py", description="Write report.html of a run directory anew.")
    parser.add_argument("run_dir", type=Path, help="the run directory")
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.run_dir))
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {options.run_dir}: {error.strerror}") from None
    return 0


def command() -> NoReturn:
    """The console script `inception-report`."""
    run_entry_point(main)


if __name__ == "__main__":
    command()
