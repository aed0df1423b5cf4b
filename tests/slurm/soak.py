"""Jobs on a real SLURM of this machine while its nodes are killed, drained and given back, time limits come, and jobs and tasks
of arrays are signalled, suspended and requeued, at random.

    python tests/slurm/soak.py [--minutes 120] [--seed 1] [--output soak.json]

Three jobs run at any time: one on two nodes, one on as many as there are (two to four), and an array of two tasks. Each is
compared with a run that nobody disturbed: bit by bit where all of its starts had as many ranks, else its losses within what
another order of summation changes; and every sample must have been taken once. What happened is in the JSON file at any time.
Exit status 1 when anything differed, or a job ended otherwise than it should.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1] / "support")]

from disturbances import NOTICE, Disturbances
from pipelines import TrainPlan
from runs import assert_same_run, rows
from slurm_cluster import ENDED, ROOT, Cluster
from taken_samples import check_samples
from tiny import make_tiny_dataset, tiny_options

NODES, STEP_SECONDS, BATCH, IMAGES, EPOCHS = 4, 0.25, 16, 96, 8
KINDS = {"two nodes": ["--nodes=2"], "two to four nodes": ["--nodes=2-4"], "array": ["--nodes=1", "--array=1-2"]}
OPTIONS = {
    "schedule.epochs": EPOCHS, "optimizer.lr": 0.002, "strategy.sync_batchnorm": "true", "data.batch_size": BATCH,
    "checkpoint.every_seconds": 1, "hooks": "taken_samples:TakenSamples",
}  # fmt: skip
# A loss after 48 steps differs by this much at most from one whose sums were taken in another order [relative].
NOISE = 1e-3
GAVE_UP = "starts got no further than"


@dataclass
class Task:
    """A job, or a task of an array, from its submission to its end."""

    kind: str
    number: str
    run: str
    quiet: str  # the run to compare with
    running: float = 0.0  # seconds that it held nodes
    useful: float = 0.0  # of these, seconds of steps that stayed
    ranks: list[int] = field(default_factory=list)  # of each start that trained
    result: str = ""
    failures: int = 0  # after which it was requeued: none of what happens here should cause one
    deviation: float = 0.0  # of a loss from the quiet run's, relative, at most


class Soak:
    """The cluster, its jobs, and what came of them."""

    def __init__(self, cluster: Cluster, told: argparse.Namespace):
        self.cluster, self.told = cluster, told
        self.data = make_tiny_dataset(cluster.folder / "data")
        self.tasks: list[Task] = []
        self.done: list[Task] = []
        self.quiet: dict[str, str] = {}
        self.disturbances = Disturbances(cluster, random.Random(told.seed), NODES, told.every)
        self._submitted = 0
        self._ended: dict[str, float] = {}
        self._looked = self._began = time.monotonic()

    def submit(self, kind: str) -> None:
        """One more job of a kind."""
        self._submitted += 1
        folder = self.cluster.folder / f"{self._submitted:03d}"
        folder.mkdir()
        seeds = (1, 2) if kind == "array" else (0,)
        sweep = {}
        if kind == "array":
            (folder / "sweep").write_text("".join(f"--run.seed {seed} --run.dir {folder}/{seed}\n" for seed in seeds))
            sweep = {"SWEEP": str(folder / "sweep")}
        arguments = tiny_options(self.data, folder / "0", **OPTIONS)
        if kind == "array":
            place = arguments.index("--run.dir")
            del arguments[place : place + 2]
        script = ROOT / "slurm" / "imagenet.sbatch"
        job = self.cluster.sbatch(
            *KINDS[kind], f"--signal=USR1@{NOTICE}", script, *arguments, "--requeue-on-failure", "3",
            PYTHONPATH=f"{ROOT}/tests/support", SECONDS_A_STEP=str(STEP_SECONDS), **sweep,
        )  # fmt: skip
        for seed in seeds:
            run, number = str(folder / str(seed)), f"{job.number}_{seed}" if kind == "array" else str(job.number)
            self.tasks.append(Task(kind, number, run, self.quiet.get(str(seed), "")))

    def look(self) -> None:
        """Where all jobs are; takes leave of those that ended."""
        answer = self.cluster.run("squeue", "--noheader", "-r", "--states=all", "--format=%i|%T|%r", check=False)
        lines = [line.split("|") for line in answer.splitlines() if line.count("|") == 2]
        if not lines:  # on a machine that is busy enough, SLURM does not answer
            return
        states = {number: (state, reason) for number, state, reason in lines}
        now = time.monotonic()
        for task in list(self.tasks):
            state = states.get(task.number, ("GONE", ""))[0]
            if state in ("RUNNING", "COMPLETING", "SUSPENDED"):
                task.running += now - self._looked
            # A job that goes back to the queue may look ended for a moment.
            since = (
                self._ended.setdefault(task.number, now)
                if state in (*ENDED, "GONE")
                else self._ended.pop(task.number, now)
            )
            if state == "COMPLETED" or (task.number in self._ended and now - since > 30):
                self.tasks.remove(task)
                self.done.append(task)
                task.result = self.examine(task, state)
                say(f"{task.kind} {task.number}, {len(task.ranks)} starts on {task.ranks} ranks: {task.result}")
        self._looked = now
        self.disturbances.look({task.number: states[task.number] for task in self.tasks if task.number in states})

    def examine(self, task: Task, state: str) -> str:
        """What came of a job that ended, in a line."""
        log = next(self.cluster.folder.glob(f"imagenet-{self.job_id(task)}.log"), None)
        words = log.read_text() if log else ""
        task.failures = words.count("\nfailed with status ")
        if state != "COMPLETED":
            return f"gave up: {state}" if GAVE_UP in words else f"FAILED: {state}: {words[-2000:]}"
        run, quiet = Path(task.run), Path(task.quiet or task.run)
        try:
            task.ranks = check_samples(run, TrainPlan(IMAGES, BATCH, seed=int(run.name)), EPOCHS)
            trained = rows(run)
            task.useful = sum(row["seconds"] for row in trained)
            expected = rows(quiet)
            assert [row["samples"] for row in trained] == [row["samples"] for row in expected], "other steps"
            task.deviation = max(abs(one["loss"] / other["loss"] - 1) for one, other in zip(trained, expected))
            own = 1 if task.kind == "array" else 2
            if set(task.ranks) == {own}:
                assert_same_run(quiet, run)
                return "the same bits"
            assert task.deviation < NOISE, f"a loss deviates by {task.deviation:.2g}"
            assert all(row["count"] == 30 for row in rows(run, "eval")), "not every image was evaluated once"
        except AssertionError as difference:
            return f"FAILED: {str(difference)[:500]}"
        return f"every sample once, losses within {task.deviation:.1e}"

    def job_id(self, task: Task) -> str:
        """The number that its log is named by."""
        words = self.cluster.run("scontrol", "show", "job", task.number, check=False).split()
        return next((word.partition("=")[2] for word in words if word.startswith("JobId=")), task.number)

    def write(self) -> None:
        """What is known so far, into the JSON file."""
        running, useful = (sum(getattr(task, name) for task in self.done) for name in ("running", "useful"))
        results = [task.result.partition(":")[0].partition(",")[0] for task in self.done]
        minutes = round((time.monotonic() - self._began) / 60, 1)
        told = {
            "seed": self.told.seed, "minutes": minutes, "asked_minutes": self.told.minutes,
            "disturbances": self.disturbances.counts, "refused": self.disturbances.refused,
            "results": {result: results.count(result) for result in sorted(set(results))},
            "failures": sum(task.failures for task in self.done), "starts": sum(len(task.ranks) for task in self.done),
            "largest_deviation": max((task.deviation for task in self.done), default=0.0),
            "goodput": round(useful / running, 4) if running else None,
            "jobs": [asdict(task) for task in self.done], "events": self.disturbances.events,
        }  # fmt: skip
        new = self.told.output.with_suffix(".new")
        new.write_text(json.dumps(told, indent=1) + "\n")
        new.replace(self.told.output)

    def run(self) -> bool:
        """All of it; whether nothing failed."""
        for kind in ("two nodes", "array"):
            self.submit(kind)
        while self.tasks:
            time.sleep(1)
            self.look()
        assert all(not task.result.startswith("FAILED") for task in self.done), [task.result for task in self.done]
        self.quiet = {Path(task.run).name: task.run for task in self.done}
        undisturbed = sum(task.useful for task in self.done) / sum(task.running for task in self.done)
        say(f"undisturbed: {undisturbed:.0%} of the time in which jobs held nodes went into steps")
        self.done, end = [], time.monotonic() + 60 * self.told.minutes
        last = end + 60 * self.told.patience
        while self.tasks or time.monotonic() < end:
            if time.monotonic() < end:
                for kind in KINDS:
                    if not any(task.kind == kind for task in self.tasks):
                        self.submit(kind)
                self.disturbances.perhaps()
            else:
                self.disturbances.mend_all()
            time.sleep(1)
            self.look()
            self.write()
            if time.monotonic() > last:
                self.done += [Task(**{**asdict(task), "result": "FAILED: did not end"}) for task in self.tasks]
                self.tasks = []
        self.write()
        return not any(task.result.startswith("FAILED") for task in self.done)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1, help="of what happens and when")
    parser.add_argument("--every", type=float, default=15, help="mean seconds between two disturbances")
    parser.add_argument(
        "--patience", type=float, default=20, help="minutes that jobs may take to end when all is mended"
    )
    parser.add_argument("--output", type=Path, default=Path("soak.json"))
    parser.add_argument("--directory", type=Path, default=Path(f"/tmp/slurm-soak-{os.getpid()}"), help="of the cluster")
    told = parser.parse_args()
    told.output = told.output.absolute()
    directory, folder = told.directory, Path(tempfile.mkdtemp(prefix="soak-"))
    cluster = Cluster(directory, folder)
    cluster.env["INCEPTION_PYTHON"] = os.environ.get("INCEPTION_PYTHON", sys.executable)
    well = False
    for number in (signal.SIGINT, signal.SIGTERM):  # it leaves no cluster behind, also when started in the background
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        say(cluster.script("start", "--nodes", str(NODES)).strip())
        well = Soak(cluster, told).run()
    finally:
        cluster.script("stop")
        if well:
            shutil.rmtree(folder)
        else:
            say(f"what the jobs left is in {folder}")
    say(f"{'nothing failed' if well else 'FAILED'}; {told.output}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
