"""Write the page that shows a run anew: `python engine/report.py RUN_DIR` makes RUN_DIR/report.html."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# The repository root instead of this script's own folder: modules are found as engine.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

from engine.config.options import ConfigError
from engine.faults.exit_status import run_entry_point
from engine.monitoring.report.page import write_report


def main(arguments: Sequence[str]) -> int:
    """Writes the page of the run directory on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="engine/report.py", description="Write report.html of a run directory anew.")
    parser.add_argument("run_dir", type=Path, help="the run directory")
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.run_dir))
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {options.run_dir}: {error.strerror}") from None
    return 0


if __name__ == "__main__":
    run_entry_point(main)
