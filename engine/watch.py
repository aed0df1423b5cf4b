"""Serve the live pages of runs on this machine: `python engine/watch.py runs`, then open the address that it prints."""

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# The repository root instead of this script's own folder: modules are found as engine.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

from engine.config.options import ConfigError
from engine.faults.exit_status import DONE, run_entry_point
from engine.monitoring.watching.server import is_own, serve
from pipelines.support.entry_point import Parser


def main(arguments: Sequence[str]) -> int:
    """Serves until it is interrupted; returns the exit status."""
    parser = Parser(
        prog="engine/watch.py", description="Serve the live pages of runs: their curves, alone and over each other."
    )
    parser.add_argument("run", nargs="*", type=Path, default=[Path("runs")], help="run directories, or folders of them")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; any but this machine's own needs a token"
    )
    parser.add_argument("--port", type=int, default=6007, help="port to listen at (0: any that is free)")
    parser.add_argument("--token", default="", help="what visitors must know; made up where --host is open to others")
    options = parser.parse_args(arguments)
    for folder in options.run:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no directory: name run directories, or a folder of them")
    token = options.token or ("" if is_own(options.host) else secrets.token_urlsafe(16))
    try:
        server, address = serve(options.run, options.host, options.port, token)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{options.host} port {options.port} cannot be listened at: {error}; choose another --port"
        ) from None
    print(f"watching {', '.join(map(str, options.run))} at {address} (Ctrl-C ends it)", flush=True)
    server.serve_forever()  # until it is interrupted
    return DONE


def command() -> NoReturn:
    """The console script `inception-watch`."""
    run_entry_point(main)


if __name__ == "__main__":
    run_entry_point(main)
