"""Every operation on a file may fail: a run ends as if it had not, or says in one line what failed and goes on when it is
started again. The soak makes the figure of docs/faults.md."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from faulty_runs import RESTARTED, UNHARMED

SUPPORT = Path(__file__).resolve().parents[2] / "support"


@pytest.mark.parametrize("trials", [24, pytest.param(520, marks=pytest.mark.soak)])
def test_runs_in_which_a_file_fails_end_alike_or_say_so(run_command, tmp_path, trials):
    library, runs = tmp_path / "file_faults.so", tmp_path / "runs"
    runs.mkdir()
    source = [str(SUPPORT / "file_faults.c"), "-o", str(library), "-ldl"]
    subprocess.run(["cc", "-std=gnu11", "-O1", "-shared", "-fPIC", *source], check=True)
    # The runs find the hook of this module by its name.
    settings = {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{SUPPORT.parents[1]}:{SUPPORT}"}
    done = run_command(["-m", "faulty_runs", str(runs), str(trials)], env=settings)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()][1:]
    for (start, outcome), count in sorted(Counter((trial["start"], trial["outcome"]) for trial in found).items()):
        print(f"{start}: {count} {outcome}")  # shown with -rP
    assert len(found) == trials
    # A run may make a few operations fewer than the one that was counted: its threads take turns as they like.
    assert sum(bool(trial["failed"]) for trial in found) > 0.7 * trials
    wrong = [trial for trial in found if trial["outcome"] not in (UNHARMED, RESTARTED)]
    assert not wrong, "\n".join(map(str, wrong))
    assert {trial["outcome"] for trial in found} == {UNHARMED, RESTARTED}
