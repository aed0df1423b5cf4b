"""How much sooner a training reaches its first step where the compiler's cache is full: a start beside a restart.

    python benchmarks/costs/restart.py [--network debug] [--batch-size 64] [--set compile.scope=block]

Each start is a process of its own that does what `engine/train.py` does until its first step is done: cold with an empty
cache, then warm with what the cold one left. Both begin where the process begins, so that imports count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.measuring.command_line import BenchmarkError, Parser, add_output_options, add_training_options, positive
from benchmarks.reporting.results import RESULTS, Result
from engine.faults.exit_status import DONE, run_entry_point

WORKER = Path(__file__).with_name("restart_worker.py")


def main(arguments: Sequence[str]) -> int:
    parser = Parser("A start with an empty compile cache beside a restart with a full one.")
    parser.add_argument("--network", default="debug", help="name of the network")
    parser.add_argument("--batch-size", type=positive, default=64, help="images in a batch")
    parser.add_argument("--rounds", type=positive, default=2, help="cold starts, with two warm ones after each")
    add_training_options(parser)
    add_output_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    result = Result("restart", vars(options))
    starts: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("cold", "warm", "warm"):
                starts[name].append(_start(options, Path(folder)))
    for name, found in starts.items():
        for part in found[0]:
            case = {"network": options.network, "start": name, "part": part}
            result.add(case, "s", [seconds[part] for seconds in found], higher_is_better=False)
    for part in ("compiling", "to the first step"):
        # Each round's cold start over the mean of its warm ones.
        pairs = zip(starts["cold"], starts["warm"][::2], starts["warm"][1::2])
        ratios = [2 * cold[part] / (first[part] + second[part]) for cold, first, second in pairs]
        result.add({"network": options.network, "start": "cold over warm", "part": part}, "times", ratios)
    result.print()
    print(f"Written: {result.save(options.output)}")
    return DONE


def _start(options: Any, folder: Path) -> dict[str, float]:
    """Seconds of one start by part, with the compile cache in `folder`."""
    with tempfile.TemporaryDirectory() as run:
        data = [f"--data.batch_size={options.batch_size}", f"--data.global_batch_size={options.batch_size}"]
        told = [f"--run.dir={run}/run", f"--network.name={options.network}", "--data.backend=synthetic", *data]
        compiler = ["--compile.enabled=true", f"--compile.cache={folder / 'cache'}"]
        # Code that was compiled for this process before must not be found in another cache of the machine.
        environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
        command = [
            sys.executable,
            str(WORKER),
            f"{run}/seconds.json",
            repr(time.time()),
            *told,
            *compiler,
            *options.set,
        ]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        if finished.returncode:
            raise BenchmarkError(f"a start failed: {(finished.stderr.strip().splitlines() or ['?'])[-1]}")
        return json.loads(Path(run, "seconds.json").read_text())


if __name__ == "__main__":
    run_entry_point(main)
