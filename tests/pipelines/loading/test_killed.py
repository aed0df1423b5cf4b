"""A process that loads is killed or interrupted in mid-epoch: what goes on from its last state, and what stays behind."""

import hashlib
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from pipelines import TrainPlan, build_loader, open_dataset, sample_path
from pipelines.preparing.beton_writer import write_beton

ROOT = Path(__file__).resolve().parents[3]
# Writes a line for each batch: the position behind it, and what its pixels and labels are.
DRIVER = """
import hashlib, itertools, json, sys
from pipelines import TrainPlan, build_loader, open_dataset
dataset = open_dataset(sys.argv[1], "val", progress=False)
loader = build_loader(dataset, TrainPlan(1000, 48, seed=5), sys.argv[2], batch_size=48, resolution=64, prefetch=4)
for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
    pixels = batch.images.permute(0, 2, 3, 1).numpy().tobytes()
    digest = hashlib.sha256(pixels + batch.labels.numpy().tobytes()).hexdigest()
    print(json.dumps([loader.state_dict(), digest]), flush=True)
"""


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> dict[str, Path]:
    """The embedded dataset as each backend reads it."""
    beton = tmp_path_factory.mktemp("beton")
    write_beton(partial(open_dataset, sample_path(), "val", progress=False), beton / "val.beton")
    return {"native": Path(sample_path()), "dali": Path(sample_path()), "ffcv": beton}


def stopped(start_command, home: Path, backend: str, after: int, how: signal.Signals) -> tuple[int, str, list]:
    """Status, stderr and lines of a process that was sent a signal once it had handed out so many batches."""
    process = start_command([sys.executable, "-c", DRIVER, home, backend], cwd=ROOT)
    process.wait_until(lambda: process.stdout.count("\n") >= after)
    os.kill(process.pid, how)
    done = process.wait()
    whole = done.stdout.rpartition("\n")[0].splitlines()  # the last line may have been cut off
    return done.returncode, done.stderr, [json.loads(line) for line in whole]


@pytest.mark.parametrize("backend", ["native", "dali", "ffcv"])
def test_a_killed_process_is_gone_on_from_with_the_pixels_of_one_that_was_not(homes, start_command, backend):
    status, _, lines = stopped(start_command, homes[backend], backend, 5, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert len(lines) >= 5
    dataset = open_dataset(homes[backend], "val", progress=False)
    plan, handed_out = TrainPlan(1000, 48, seed=5), min(len(lines), 15)

    def digests(loader) -> list[str]:
        return [
            hashlib.sha256(
                batch.images.permute(0, 2, 3, 1).numpy().tobytes() + batch.labels.numpy().tobytes()
            ).hexdigest()
            for batch in loader
        ]

    with build_loader(dataset, plan, backend, batch_size=48, resolution=64) as loader:
        whole = digests(loader)
    with build_loader(dataset, plan, backend, batch_size=48, resolution=64, workers=1) as loader:
        loader.load_state_dict(lines[handed_out - 1][0])
        rest = digests(loader)
    assert [digest for _, digest in lines[:handed_out]] + rest == whole


def test_ctrl_c_ends_a_process_that_loads_with_dali(homes, start_command):
    status, errors, lines = stopped(start_command, homes["dali"], "dali", 3, signal.SIGINT)
    assert status in (1, -signal.SIGINT)
    assert len(lines) >= 3
    assert errors.strip().endswith("KeyboardInterrupt")
