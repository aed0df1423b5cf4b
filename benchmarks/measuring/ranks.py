"""A script's part that runs on several ranks of this machine, and what the first of them measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring.command_line import BenchmarkError


def measure_on_ranks(
    script: Path, ranks: int, threads: int, arguments: Sequence[Any], output_option: str
) -> dict[str, Any]:
    """Runs `script` with `arguments` under torchrun, `threads` a rank; returns the JSON that it writes to the file that
    `output_option` names. Raises BenchmarkError with the first cause when a rank fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1",
                   f"--nproc_per_node={ranks}", str(script), *map(str, arguments), output_option, str(output)]  # fmt: skip
        env = os.environ | {"OMP_NUM_THREADS": str(threads)}
        # One machine: the loopback interface is the fastest there is, and always there.
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")
        finished = subprocess.run(command, env=env, capture_output=True, text=True)
        if finished.returncode or not output.exists():
            lines = [line for line in finished.stderr.splitlines() if line.startswith("error:")]
            raise BenchmarkError(
                f"{ranks} ranks failed: {(lines or finished.stderr.strip().splitlines() or ['?'])[-1]}"
            )
        return json.loads(output.read_text())
