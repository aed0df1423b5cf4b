"""Lets one operation on a file fail in each of many trainings, and counts what comes of it.

    python benchmarks/studies/file_faults.py --trials 600

A training of two short epochs, with checkpoints, evaluations, best weights, metrics and report, opens, reads, writes, renames,
flushes, makes and removes files some hundred times: of its dataset and index, the run directory and the cache. In each trial
one of these fails, once, with EIO, ENOSPC, ESTALE or EACCES; half of the runs start afresh, half go on from the middle. Each
must end as a quiet one to the last bit, or with one line that names file and cause, after which the same command completes so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.measuring import Parser
from benchmarks.measuring.command_line import BenchmarkError
from benchmarks.reporting.results import Result
from benchmarks.studies.faulty_runs import RESTARTED, UNHARMED
from engine.faults.exit_status import DONE, FAILED, run_entry_point

_SOURCE = Path(__file__).with_suffix(".c")
_GOOD = (UNHARMED, RESTARTED)


def main(arguments: Sequence[str]) -> int:
    parser = Parser("Trainings in which one operation on a file fails.")
    parser.add_argument("--trials", type=int, default=600, help="trainings; 0: one for each operation")
    parser.add_argument("--keep", type=Path, help="folder for what trials left behind that went wrong")
    options = parser.parse_args(arguments)
    result = Result("file_faults", options)
    outcomes: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        for trial in trials(options.keep or Path(temporary), options.trials):
            good = trial["outcome"] in _GOOD
            outcomes[trial["start"], trial["outcome"] if good else "ended otherwise"] += 1
            if not good:
                print(json.dumps(trial, indent=1), file=sys.stderr, flush=True)
    for start in sorted({start for start, _ in outcomes}):
        for outcome in (*_GOOD, "ended otherwise"):
            result.add({"started": start, "and": outcome}, "runs", outcomes[start, outcome])
    result.finish()
    return FAILED if any(outcome not in _GOOD for _, outcome in outcomes) else DONE


def trials(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """`faulty_runs.Trial` by `faulty_runs.Trial`, as dictionaries; what went wrong stays in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    library = compiled(folder / "file_faults.so")
    (folder / "runs").mkdir()
    command = [sys.executable, "-m", "benchmarks.studies.faulty_runs", str(folder / "runs"), str(count)]
    given = {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            found = json.loads(line)
            if "outcome" in found:
                yield found
        said = process.stderr.read()
    if process.returncode != 0:
        raise BenchmarkError(f"the trials could not be made: {said.strip().splitlines()[-1] if said.strip() else ''}")


def compiled(library: Path) -> Path:
    """The C beside this file, to be preloaded; BenchmarkError when it does not compile."""
    done = subprocess.run(
        ["cc", "-std=gnu11", "-O1", "-shared", "-fPIC", str(_SOURCE), "-o", str(library), "-ldl"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BenchmarkError(f"what lets files fail does not compile: {done.stderr.strip().splitlines()[0]}")
    return library


if __name__ == "__main__":
    run_entry_point(main)
