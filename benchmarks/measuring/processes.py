"""Processes that a script starts: what they said when they end well, and one line when they do not."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring.command_line import BenchmarkError

# A launcher's variables would make a process believe that it is one rank of that job.
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def own_environment() -> dict[str, str]:
    """This process's variables but a launcher's."""
    return {key: value for key, value in os.environ.items() if key not in _LAUNCHER}


def finished(command: Sequence[Any], what: str, environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Seconds and output of a process that ends well. Raises BenchmarkError with `what` failed and its own last words."""
    started = time.monotonic()
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment or own_environment(),
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        last = (errors or done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchmarkError(f"{what} failed with status {done.returncode}: {last.removeprefix('error: ')}")
    return time.monotonic() - started, done.stdout


def measured_on_ranks(
    script: Path, ranks: int, threads: int, arguments: Sequence[Any], output_option: str
) -> dict[str, Any]:
    """Runs `script` with `arguments` on so many ranks, `threads` a rank; returns the JSON that it writes to the file that
    `output_option` names. Raises BenchmarkError with the first cause when a rank fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measured.json"
        # One machine: the loopback interface is the fastest there is, and always there.
        environment = {"GLOO_SOCKET_IFNAME": "lo"} | own_environment() | {"OMP_NUM_THREADS": str(threads)}
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
        command = [*launcher, f"--nproc_per_node={ranks}", script, *arguments, output_option, output]
        finished(command, f"{ranks} ranks", environment)
        return json.loads(output.read_text())
