"""How much sooner a training reaches its first step where the compiler's cache is full: a start beside a restart.

    python benchmarks/costs/restart.py [--network debug] [--batch-size 64] [--set compile.scope=block]

Each start is an `engine/train.py` that ends when its first step is done: cold with an empty cache, then warm with what the
cold one left. Both begin where the process begins, so that imports count.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.costs.first_step import FILE
from benchmarks.measuring import ROOT, positive, synthetic
from benchmarks.measuring.processes import finished, own_environment
from benchmarks.reporting import Result, Study

study = Study("restart", __doc__, network="debug", batch_size=64, set=[])
study.option("--rounds", type=positive, default=2, help="cold starts, with two warm ones after each")


@study
def main(options: Any, result: Result) -> None:
    starts: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for number in range(options.rounds):
        result.say(f"round {number + 1} of {options.rounds}: a cold start and two warm ones ...")
        with tempfile.TemporaryDirectory() as folder:
            for name in ("cold", "warm", "warm"):
                starts[name].append(_start(options, Path(folder)))
    for name, found in starts.items():
        parts = {part: [seconds[part] for seconds in found] for part in found[0]}
        result.add_each({"network": options.network, "start": name}, "part", "s", parts, higher_is_better=False)
    for part in ("compiling", "to the first step"):
        # Each round's cold start over the mean of its warm ones.
        pairs = zip(starts["cold"], starts["warm"][::2], starts["warm"][1::2])
        ratios = [2 * cold[part] / (first[part] + second[part]) for cold, first, second in pairs]
        result.add({"network": options.network, "start": "cold over warm", "part": part}, "times", ratios)


def _start(options: Any, folder: Path) -> dict[str, float]:
    """Seconds of one start by part, with the compile cache in `folder`."""
    with tempfile.TemporaryDirectory() as run:
        compiled = ["--compile.enabled=true", f"--compile.cache={folder / 'cache'}"]
        told = [*synthetic(f"{run}/run", options.network, options.batch_size), *compiled, *options.set]
        # Code that was compiled for this process before must not be found in another cache of the machine.
        environment = {name: value for name, value in own_environment().items() if name != "TORCHINDUCTOR_CACHE_DIR"}
        hooked = [sys.executable, ROOT / "engine/train.py", "--hooks=benchmarks.costs.first_step:Marks"]
        finished([*hooked, *told], "a start", environment)
        return json.loads(Path(run, "run", FILE).read_text())


if __name__ == "__main__":
    study.start()
