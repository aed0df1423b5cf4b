"""A private SLURM cluster as tests use it: commands, jobs, and their processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from waiting import wait_until
from warm_python import fork_of

ROOT = Path(__file__).resolve().parents[2]
LOCAL_CLUSTER = ROOT / "slurm" / "local_cluster.sh"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")


class Cluster:
    """The cluster under test; every command runs with its configuration, on CPUs, from `folder`."""

    def __init__(self, directory: Path, folder: Path):
        self.directory, self.folder = directory, folder
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "OMPI_", "PMI_", "PMIX_", "INCEPTION_")) and name != "MASTER_ADDR"
        }
        self.env |= {
            "SLURM_CONF": str(directory / "slurm.conf"),
            "INCEPTION_CLUSTER": str(directory),
            "INCEPTION_PYTHON": os.environ.get("INCEPTION_PYTHON", sys.executable),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *command: str | Path, check: bool = True, **env: str) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            env=self.env | env,
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def script(self, command: str, *arguments: str) -> str:
        return self.run("bash", LOCAL_CLUSTER, command, *arguments)

    def sbatch(self, *arguments: str | Path, **env: str) -> Job:
        return Job(self, int(self.run("sbatch", "--parsable", *arguments, **env).split(";")[0]))

    def wait_for_all(self) -> None:
        """Until the queue is empty."""

        def is_empty() -> bool:
            time.sleep(0.1)
            return not self.run("squeue", "--noheader").strip()

        wait_until(is_empty, lambda: self.run("squeue"))

    def daemon(self, name: str) -> int | None:
        """The number of a daemon that runs; what its file holds may be another's by now."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.directory / f"{name}.pid").read_text())
            # SLURM 24 starts anew when it is reconfigured, in Debian under the name slurmd-wlm.
            if Path(f"/proc/{pid}/comm").read_text().strip().removesuffix("-wlm") == name.partition("-")[0]:
                return pid
        return None

    def lost(self, node: str) -> bool:
        return self.daemon(f"slurmd-{node}") is None

    def clean_up(self) -> None:
        """Cancels all jobs and brings lost nodes back."""
        for node in ("n1", "n2"):
            if self.lost(node):
                self.script("restore", node)
        jobs = self.run("squeue", "--noheader", "--format=%A").split()
        if jobs:
            self.run("scancel", *jobs)
            self.wait_for_all()

    @contextlib.contextmanager
    def other_environment(self, node: str, **variables: str) -> Iterator[None]:
        """Tasks on `node` find these variables changed: SLURM asks a program, the task prolog, for such changes."""
        prolog = self.directory / "task_prolog"
        exports = "\n".join(f"echo export {name}={value}" for name, value in variables.items())
        prolog.write_text(f'#!/bin/bash\nif [[ "$SLURMD_NODENAME" == {node} ]]; then\n{exports}\nfi\n')
        prolog.chmod(0o755)
        configuration = self.directory / "slurm.conf"
        before = configuration.read_text()
        try:
            configuration.write_text(f"{before}TaskProlog={prolog}\n")
            self.run("scontrol", "reconfigure")
            yield
        finally:
            configuration.write_text(before)
            self.run("scontrol", "reconfigure")


class Job:
    """One batch job, or a task of an array, ARRAY_TASK; its log is that of slurm/*.sbatch, NAME-ID.log."""

    def __init__(self, cluster: Cluster, number: int | str):
        self.cluster, self.number = cluster, number

    def show(self, field: str) -> str:
        time.sleep(0.2)  # tests that wait ask again and again, and each answer costs a process
        words = self.cluster.run("scontrol", "show", "job", str(self.number)).split()
        return next((word.partition("=")[2] for word in words if word.startswith(f"{field}=")), "")

    @property
    def state(self) -> str:
        return self.show("JobState")

    @property
    def seconds(self) -> int:
        """How long it has run since its last start (for less than a day)."""
        hours, minutes, seconds = self.show("RunTime").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + int(seconds)

    @property
    def log(self) -> str:
        path = Path(self.show("StdOut"))
        return path.read_text() if path.exists() else ""

    def wait(self) -> str:
        """Its final state."""
        self.wait_until(lambda: self.state in ENDED)
        return self.state

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Until `condition()`; a test that waits in vain, or for a job that has ended, shows the job's state and log."""
        seen: list[str] = []  # its states, every few seconds: a job that is started again may have ended for a moment
        due = time.monotonic() + 5

        def going_on() -> bool:
            nonlocal due
            if time.monotonic() > due:
                seen.append(self.state)
                due = time.monotonic() + 5
            return len(seen) < 2 or not set(seen[-2:]) <= set(ENDED)

        wait_until(condition, lambda: f"{self.state}:\n{self.log}", going_on)

    def ranks(self) -> list[int]:
        """The processes that train."""
        wanted = f"SLURM_JOB_ID={self.number}".encode()
        cluster = f"SLURM_CONF={self.cluster.env['SLURM_CONF']}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                variables = (process / "environ").read_bytes().split(b"\0")
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if wanted in variables and cluster in variables and b"engine/train.py" in line and b"python" in line[:200]:
                found.append(int(process.name))
        return [pid for pid in found if b"bash" not in Path(f"/proc/{pid}/comm").read_bytes()]

    def freeze(self) -> list[int]:
        """Stops the ranks where they are, so that what happens next happens in mid-epoch on a machine of any speed."""
        ranks = [fork_of(pid) for pid in self.ranks()]
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        return ranks
