"""Jobs whose cluster falls apart around them, for minutes here; `python tests/slurm/soak.py` does it for hours."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from pipelines import TrainPlan
from slurm_cluster import LOCAL_CLUSTER
from taken_samples import check_samples


@pytest.mark.soak
def test_jobs_end_as_undisturbed_ones_whatever_happens_to_the_nodes(run_command, tmp_path):
    place = ["--directory", f"/tmp/slurm-soak-test-{os.getpid()}"]
    try:
        done = run_command(["tests/slurm/soak.py", "--minutes", "5", "--output", tmp_path / "soak.json", *place])
    finally:  # at this test's limit it is killed, and cannot
        subprocess.run(["bash", LOCAL_CLUSTER, "stop", *place], check=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "soak.json").read_text())
    assert any(not task["result"].startswith("gave up") for task in told["jobs"])
    assert sum(told["disturbances"].values()) > 3


@pytest.mark.parametrize("fault", ["none", "a sample twice", "a step missing", "a rank missing"])
def test_samples_that_are_lost_or_taken_twice_are_found(fault, tmp_path):
    """The soak's own check, on a run of 48 steps whose second start goes back to step 20."""
    run, plan = tmp_path / "0", TrainPlan(96, 16)
    (run / "samples").mkdir(parents=True)
    for start, ranks, steps in ((0, 2, range(1, 25)), (1, 3, range(20, 49))):
        for rank in range(ranks):
            lines = []
            for step in steps:
                taken = plan.indices(*divmod(step - 1, plan.batches)).tolist()
                share = taken[rank * 16 // ranks : (rank + 1) * 16 // ranks]
                if start == 1 and rank == 2 and step == 30:
                    if fault == "a sample twice":
                        share[0] = taken[0]
                    elif fault == "a rank missing":
                        continue
                if not (fault == "a step missing" and step == 30):
                    lines.append(json.dumps({"step": step, "ranks": ranks, "samples": share}))
            (run / "samples" / f"{start}-{rank}.jsonl").write_text("\n".join(lines) + "\n")
    if fault == "none":
        assert check_samples(run, plan, 8) == [2, 3]
    else:
        with pytest.raises(
            AssertionError, match={"a sample twice": "other samples"}.get(fault, "missing|not all ranks")
        ):
            check_samples(run, plan, 8)
