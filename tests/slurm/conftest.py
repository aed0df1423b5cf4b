"""A real SLURM of two nodes on this machine for a session of tests, and a dataset and run that take seconds."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm_cluster import ROOT, Cluster
from tiny import make_tiny_dataset, tiny_options


@pytest.fixture(scope="session")
def cluster(warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, n1 and n2, of one core each (where the machine has two); gone after the session."""
    # Not below pytest's own folder: the name of munged's socket has a limit.
    directory = Path(f"/tmp/slurm-tests-{os.getpid()}")
    found = Cluster(directory, tmp_path_factory.mktemp("jobs"))
    found.env["INCEPTION_PYTHON"] = warm_python
    found.script("start")
    yield found
    found.script("stop")


@pytest.fixture(autouse=True)
def no_jobs_left(cluster: Cluster) -> Iterator[None]:
    """A test that failed leaves its cluster to the next as it found it."""
    yield
    cluster.clean_up()


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """``options(run, **changes)``: arguments of engine/train.py for a run of seconds in the directory ``run``."""
    return functools.partial(tiny_options, make_tiny_dataset(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def quiet(cluster: Cluster, options: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a job that nobody disturbed, whose ranks are programs of their own."""
    run = tmp_path_factory.mktemp("quiet") / "run"
    script = ROOT / "slurm" / "imagenet.sbatch"
    job = cluster.sbatch("--nodes=2", script, *options(run), INCEPTION_PYTHON=sys.executable)
    assert job.wait() == "COMPLETED", job.log
    return run
