"""What happens to a cluster and its jobs, at random: tests/slurm/soak.py."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from slurm_cluster import LOCAL_CLUSTER, Cluster, Job

NOTICE = 110  # seconds before a job's limit that it is told
# How often each comes beside the others.
WEIGHTS = {"lose": 4, "drain": 2, "requeue": 2, "limit": 3, "signal": 2, "suspend": 1}


class Disturbances:
    """Strikes every so often: `perhaps` once a second, told by `look` what jobs there are.

    counts: how often each came; events: what was done, seconds since the beginning; refused: how often SLURM would not.
    """

    def __init__(self, cluster: Cluster, chance: random.Random, nodes: int, every: float):
        self._cluster, self._chance, self._every = cluster, chance, every
        self._nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._began = time.monotonic()
        self._next: float | None = None
        self._mends: list[tuple[float, Callable[[], None]]] = []
        self._drained: set[str] = set()
        self._limited: set[str] = set()
        self._states: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.events: list[tuple[float, str]] = []
        self.refused = 0

    def look(self, jobs: Mapping[str, tuple[str, str]]) -> None:
        """Takes note of jobs' states and SLURM's reasons, by number."""
        self._states = {number: state for number, (state, _) in jobs.items()}
        for number, (state, reason) in jobs.items():
            if state == "PENDING" and "held" in reason.lower():  # a node died while SLURM started the job there
                self._command(f"held by SLURM ({reason})", "scontrol", "release", number)
            if number in self._limited and state == "PENDING":  # the limit has done its work
                self._limited.discard(number)
                self._command("", "scontrol", "update", f"JobId={number}", "TimeLimit=UNLIMITED")

    def perhaps(self) -> None:
        """Disturbs something when it is time to, and mends what was disturbed for long enough."""
        now = time.monotonic()
        due = [mend for moment, mend in self._mends if moment <= now]
        self._mends = [(moment, mend) for moment, mend in self._mends if moment > now]
        for mend in due:
            mend()
        if self._next is None or now >= self._next:
            if self._next is not None:
                self._strike()
            self._next = now + self._chance.expovariate(1 / self._every)

    def mend_all(self) -> None:
        """Everything as it was."""
        mends, self._mends = self._mends, []
        for _, mend in mends:
            mend()
        self._look_at_nodes()

    def _look_at_nodes(self) -> None:
        """Gives back nodes that SLURM itself has taken out of use."""
        lines = self._cluster.run("sinfo", "--Node", "--noheader", "--format=%N|%T|%E", check=False).splitlines()
        for node, state, reason in (line.split("|", 2) for line in lines if line.count("|") >= 2):
            if "drain" in state and node not in self._drained:
                self._command(f"{node} was drained by SLURM ({reason})", *_state(node, "RESUME"))

    def _strike(self) -> None:
        self._look_at_nodes()
        kind = self._chance.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
        running = [number for number, state in self._states.items() if state == "RUNNING"]
        standing = [node for node in self._nodes if not self._cluster.lost(node)]
        if kind == "lose" and standing:
            self._lose(self._chance.choice(standing))
        elif kind == "drain":
            self._drain(self._chance.choice(self._nodes))
        elif running:
            self._job(kind, self._chance.choice(running))

    def _lose(self, node: str) -> None:
        self._count("lose", f"{node} is lost")
        self._command("", "bash", LOCAL_CLUSTER, "lose", node)

        def restore() -> None:
            if not self._cluster.lost(node):
                return
            answer = self._cluster.run("bash", LOCAL_CLUSTER, "restore", node, check=False).strip()
            self._note(answer)
            if self._cluster.lost(node):  # its port is not free yet
                self._later(5, restore)

        self._later(self._chance.uniform(5, 100), restore)

    def _drain(self, node: str) -> None:
        self._count("drain", f"{node} is drained")
        self._drained.add(node)
        self._command("", *_state(node, "DRAIN"), "Reason=soak")

        def resume() -> None:
            self._drained.discard(node)
            self._command(f"{node} is given back", *_state(node, "RESUME"))

        self._later(self._chance.uniform(10, 60), resume)

    def _job(self, kind: str, number: str) -> None:
        self._count(kind, f"{kind} {number}")
        if kind == "requeue":
            self._command("", "scontrol", "requeue", number)
        elif kind == "signal":
            with contextlib.suppress(ValueError):
                if Job(self._cluster, number).seconds >= 2:  # before, its script is no further than bash's own start
                    self._command("", "scancel", "--batch", "--signal=USR1", number)
        elif kind == "suspend":
            self._command("", "scontrol", "suspend", number)
            self._later(self._chance.uniform(2, 15), lambda: self._command("", "scontrol", "resume", number))
        elif kind == "limit":
            with contextlib.suppress(ValueError):  # it has just ended
                # Its signal comes in 10 to 70 s.
                limit = (Job(self._cluster, number).seconds + NOTICE + 10) // 60 + 1
                self._limited.add(number)
                self._command("", "scontrol", "update", f"JobId={number}", f"TimeLimit={limit}")

    def _later(self, seconds: float, mend: Callable[[], None]) -> None:
        self._mends.append((time.monotonic() + seconds, mend))

    def _command(self, words: str, *command: Any) -> None:
        if words:
            self._note(words)
        answer = self._cluster.run(*command, check=False).strip()
        if answer and not answer.endswith("is gone"):  # a job that has just ended, a node that has just been lost
            self.refused += 1
            self._note(f"{' '.join(command)}: {answer}")

    def _count(self, kind: str, words: str) -> None:
        self.counts[kind] += 1
        self._note(words)

    def _note(self, words: str) -> None:
        self.events.append((round(time.monotonic() - self._began, 1), words))


def _state(node: str, state: str) -> tuple[str, ...]:
    return "scontrol", "update", f"NodeName={node}", f"State={state}"
